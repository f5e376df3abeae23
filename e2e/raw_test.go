package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// invalid are bytes that no WebSocket endpoint may send. The proxy does not judge:
// it passes them on as they are, so that the other end can.
var invalid = map[string][]byte{
	"reserved bits":             {0xf1, 0x02, 'a', 'b'},
	"reserved opcode 3":         {0x83, 0x01, 'a'},
	"reserved opcode 11":        {0x8b, 0x01, 'a'},
	"continuation of nothing":   {0x80, 0x01, 'a'},
	"two beginnings":            {0x01, 0x01, 'a', 0x01, 0x01, 'b'},
	"fragmented ping":           {0x09, 0x01, 'a'},
	"ping of 126 bytes":         append([]byte{0x89, 0x7e, 0x00, 0x7e}, bytes.Repeat([]byte{'p'}, 126)...),
	"16-bit length of 5":        {0x82, 0x7e, 0x00, 0x05, 1, 2, 3, 4, 5},
	"64-bit length of 5":        {0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0x05, 1, 2, 3, 4, 5},
	"64-bit length, top bit":    {0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'x'},
	"text that is not UTF-8":    {0x81, 0x03, 0xff, 0xfe, 0xc0},
	"close of one byte":         {0x88, 0x01, 0x03},
	"close with code 0":         {0x88, 0x02, 0x00, 0x00},
	"close with code 1005":      {0x88, 0x02, 0x03, 0xed},
	"close, reason not UTF-8":   {0x88, 0x03, 0x03, 0xe8, 0xff},
	"frames after a close":      {0x88, 0x02, 0x03, 0xe8, 0x82, 0x01, 'a'},
	"masked or not, in turn":    {0x82, 0x81, 1, 2, 3, 4, 'a', 0x82, 0x01, 'b'},
	"half a header":             {0x82, 0x7e, 0x01},
	"half a payload":            {0x82, 0x10, 'a', 'b'},
	"something quite else":      []byte("GET / HTTP/1.1\r\nHost: relay\r\n\r\n"),
	"zeros":                     make([]byte, 1000),
	"what a die threw":          random(64 << 10),
	"a compressed bit, unasked": {0xc1, 0x02, 0x4b, 0x04},
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.Read(p) // never fails (crypto/rand)
	return p
}

// TestInvalidFrames sends each of them in each direction.
func TestInvalidFrames(t *testing.T) {
	s := newSetup(t, relay.Config{}, caddy.Config{})
	conns := make(chan net.Conn, 1)
	s.proxy.Load(t, s.site(startRaw(t, s, conns)))
	for name, data := range invalid {
		t.Run(name, func(t *testing.T) {
			t.Run("to relay", func(t *testing.T) {
				client := s.dialRaw(t)
				checkPassed(t, client, <-conns, data)
			})
			t.Run("to client", func(t *testing.T) {
				client := s.dialRaw(t)
				checkPassed(t, <-conns, client, data)
			})
		})
	}
}

// checkPassed sends data and then the end, and checks that both come, unchanged.
func checkPassed(t *testing.T, from, to net.Conn, data []byte) {
	t.Helper()
	defer to.Close()
	defer from.Close()
	if _, err := from.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := from.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(to)
	if err != nil {
		t.Errorf("after %d bytes: %v", len(got), err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("sent %d bytes %.40x, came %d bytes %.40x", len(data), data, len(got), got)
	}
}

// startRaw answers handshakes and hands the connections over.
func startRaw(t *testing.T, s *setup, conns chan<- net.Conn) string {
	t.Helper()
	return startUpstream(t, s, program.NewLog(t, "raw"), func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		conns <- conn
	})
}

// dialRaw makes the handshake by hand.
func (s *setup) dialRaw(t *testing.T) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca.Pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s?apiKey=k HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		mount, s.addr, base64.StdEncoding.EncodeToString(random(16)))
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols || r.Buffered() > 0 {
		t.Fatalf("%s, with %d bytes after it", response.Status, r.Buffered())
	}
	return conn
}
