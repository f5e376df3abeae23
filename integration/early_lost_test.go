package integration_test

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRelayDiesDuringUpload has a relay that ends its connection while the client takes
// its time for the rest of the body: the client is told at once.
func TestRelayDiesDuringUpload(t *testing.T) {
	http1 := func(c *wstest.Conn) {
		if _, err := c.ReadHead(); err != nil {
			t.Error(err)
		}
		c.R.ReadByte() // of the body
	}
	for way, relay := range map[string]struct {
		address func(end func(*wstest.Conn)) string
		ends    func(*wstest.Conn)
	}{
		"TLS":   {func(end func(*wstest.Conn)) string { return "wss://" + rawRelay(t, end).Addr }, http1},
		"plain": {func(end func(*wstest.Conn)) string { return "ws://" + rawRelayWith(t, nil, end).Addr }, http1},
		"HTTP/2": {func(end func(*wstest.Conn)) string {
			return "wss://" + rawRelayWith(t, relayTLSWithHTTP2(), end).Addr
		}, http2Data},
	} {
		for name, end := range map[string]func(*wstest.Conn){
			"close": func(c *wstest.Conn) { c.Close() },
			"reset": func(c *wstest.Conn) { c.Reset() },
		} {
			address := relay.address(func(c *wstest.Conn) { relay.ends(c); end(c) })
			p := start(t, mount(address, ""))
			for _, body := range unfinished[:2] {
				c := p.dial(t)
				c.request("POST", "/websocket/trace", body[0], "Origin: https://page.example")
				c.write(body[1])
				response, err := http.ReadResponse(c.R, nil)
				if err != nil {
					t.Fatalf("%s, %s, %s: %v", way, name, body[0], err)
				}
				wantRefusal(t, strings.Join([]string{way, name, body[0]}, ", "), response, http.StatusBadGateway)
				c.close()
			}
			p.stop(t)
		}
	}
}

// http2Data reads up to the first piece of a body over HTTP/2.
func http2Data(c *wstest.Conn) {
	if r, err := newH2Relay(c); err == nil {
		r.await(http2.FrameData)
	}
}

// TestEmptyPost: a POST without a body says so, whichever way it takes.
func TestEmptyPost(t *testing.T) {
	for way, options := range transportWays() {
		heads := make(chan string, 1)
		address := rawRelay(t, func(c *wstest.Conn) {
			head, err := c.ReadHead()
			if err != nil {
				t.Error(err)
			}
			heads <- head
			c.WriteText("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			c.Close()
		}).Addr
		p := start(t, mount("wss://"+address, options))
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Content-Length: 0")
		c.wantStatus(c.response("POST"), http.StatusNoContent)
		head := <-heads
		// Field names are the same in capital and in small letters (RFC 9110, section 5.1).
		lower := strings.ToLower(head)
		if strings.Count(lower, "\r\ncontent-length: 0\r\n") != 1 || strings.Contains(lower, "transfer-encoding") {
			t.Errorf("%s: the relay got %q", way, head)
		}
		p.stop(t)
	}
}
