package e2e

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
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
	raw := wstest.NewRelay(t, s.leaf.ServerConfig(), nil)
	s.proxy.Load(t, s.site("wss://"+raw.Addr))
	for name, data := range invalid {
		t.Run(name, func(t *testing.T) {
			t.Run("to relay", func(t *testing.T) {
				client, relay := s.openRaw(t, raw)
				checkPassed(t, client, relay, data)
			})
			t.Run("to client", func(t *testing.T) {
				client, relay := s.openRaw(t, raw)
				checkPassed(t, relay, client, data)
			})
		})
	}
}

// checkPassed sends data and then the end, and checks that both come, unchanged.
func checkPassed(t *testing.T, from, to *wstest.Conn, data []byte) {
	t.Helper()
	defer to.Close()
	defer from.Close()
	if _, err := from.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := from.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := to.ReadToEnd()
	if err != nil {
		t.Errorf("after %d bytes: %v", len(got), err)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("sent %d bytes %.40x, came %d bytes %.40x", len(data), data, len(got), got)
	}
}

// openRaw opens a tunnel of which the test holds both ends.
func (s *setup) openRaw(t *testing.T, raw *wstest.Relay) (client, relay *wstest.Conn) {
	t.Helper()
	client, err := wstest.Dialer{TLS: s.ca.ClientConfig("proxy.test")}.Dial(soon(t), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	opened := make(chan error, 1)
	go func() {
		_, err := client.Handshake(mount+"?apiKey=k", "Host: "+s.addr)
		opened <- err
	}()
	relay = raw.Next()
	if _, err := relay.AcceptHandshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	return client, relay
}
