package integration_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// jammed is an HTTP/2 connection that its client no longer reads from, so that nothing
// more of the proxy's gets through. It has a WebSocket whose relay has just responded.
type jammed struct {
	*tls.Conn
	relayOver chan struct{} // closed when the relay's connection has ended
}

// jam opens a WebSocket with the query, and has the relay accept it when a download on
// the same connection has come to a standstill.
func jam(t *testing.T, query string, options ...string) (*proxy, *jammed) {
	t.Helper()
	asked, full := make(chan struct{}), make(chan struct{})
	j := &jammed{relayOver: make(chan struct{})}
	relay := rawRelay(t, func(c *wstest.Conn) {
		r, err := c.ReadRequest()
		if err != nil {
			return
		}
		if r.Header.Get("Upgrade") == "" {
			fill(c)
			close(full)
			c.ReadToEnd()
			return
		}
		close(asked)
		<-full
		c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
			"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-WebSocket-Key")))
		c.ReadToEnd()
		close(j.relayOver)
	})
	p := start(t, mount(https(relay), options...))
	var err error
	if j.Conn, err = tls.Dial(p.network, p.addr, authority.ClientConfig("localhost", "h2")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.NetConn().Close() })
	framer := http2.NewFramer(j.Conn, j.Conn)
	io.WriteString(j.Conn, http2.ClientPreface)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	framer.WriteWindowUpdate(0, 1<<30)
	ask := func(stream uint32, end bool, fields ...string) {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for i := 0; i < len(fields); i += 2 {
			encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
	}
	ask(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "localhost",
		":path", "/websocket"+query, "sec-websocket-version", "13")
	await(t, asked, "handshake")
	ask(3, true, ":method", "GET", ":scheme", "https", ":authority", "localhost", ":path", "/websocket/download")
	await(t, full, "standstill")
	awaitTrue(t, "wait for the client to take the 200", func() bool { return inStacks("(*roundTrip).openStream") > 0 })
	return p, j
}

// fill responds without an end, until nothing more is taken.
func fill(c *wstest.Conn) {
	c.WriteResponseHead("200 OK")
	for piece := make([]byte, 64<<10); ; {
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := c.Write(piece); err != nil {
			return
		}
	}
}

// TestKeyInNoLogOfJammedClient has a client go that has not taken the response to its
// handshake. No line of the log holds its key, and none blames the proxy.
func TestKeyInNoLogOfJammedClient(t *testing.T) {
	p, j := jam(t, secretQuery)
	j.NetConn().Close()
	await(t, j.relayOver, "end of the relay's connection")
	p.stop(t)
	for _, word := range []string{"s3cret", `"level":"error"`} {
		lines, _ := p.logs.matching(word)
		for _, line := range lines {
			t.Errorf("%s in %s", word, line)
		}
	}
}

// TestJammedClientHoldsNoSlot has a client that never takes the response to its
// handshake. Nothing moves in either direction, so idle_timeout ends it like a tunnel.
func TestJammedClientHoldsNoSlot(t *testing.T) {
	p, j := jam(t, "?x=1", "handshake_timeout 5s", "idle_timeout 1s", "max_tunnels 1")
	select {
	case <-j.relayOver:
	case <-time.After(10 * time.Second):
		t.Error("10 s of silence, with an idle_timeout of 1 s, and the relay's connection is still open")
	}
	c := p.dial(t)
	if response := c.handshake("/websocket"); response.StatusCode == http.StatusServiceUnavailable {
		t.Error("the slot is still taken")
	}
}
