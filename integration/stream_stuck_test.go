package integration_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// handshakeFields are the fields of a handshake on a stream.
var handshakeFields = [][2]string{
	{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"},
	{":path", "/websocket"}, {":authority", "localhost"}, {"sec-websocket-version", "13"},
}

// overflowing is a relay that sends one long message, which no client here takes.
func overflowing(t *testing.T) (addr string, told chan time.Time, ended chan time.Time) {
	told, ended = make(chan time.Time, 1), make(chan time.Time, 1)
	message := wire(false, binaryMessage(32<<20))
	addr = rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith(""); err != nil {
			t.Error(err)
		}
		go c.WriteText(message)
		c.Next()
		told <- time.Now()
		c.ReadToEnd()
		ended <- time.Now()
	}).Addr
	return addr, told, ended
}

// TestStuckHTTP2Client has a client that stops reading from its connection. Its tunnel
// is idle, and over when its peers have had their 5 s.
func TestStuckHTTP2Client(t *testing.T) {
	addr, told, ended := overflowing(t)
	p := start(t, mount("wss://"+addr, "idle_timeout 1s"))
	raw, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.(*net.TCPConn).SetReadBuffer(4 << 10)
	conn := tls.Client(raw, authority.ClientConfig("localhost", "h2"))
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	framer.WriteWindowUpdate(0, 1<<31-1-65535)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range handshakeFields {
		encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Header().Type == http2.FrameData {
			break
		}
	}
	begun := await(t, told, "Close frame")
	select {
	case at := <-ended:
		t.Logf("over %v after its Close frame", at.Sub(begun))
	case <-time.After(9 * time.Second):
		t.Error("the tunnel still lives 9 s after its Close frame")
	}
}
