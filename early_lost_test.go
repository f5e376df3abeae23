package watchrtcproxy

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestRelayDiesDuringUpload has a relay that ends its connection while the client takes
// its time for the rest of the body: the client is told at once.
func TestRelayDiesDuringUpload(t *testing.T) {
	http1 := func(c *rawConn) {
		if _, err := c.head(); err != nil {
			t.Error(err)
		}
		c.r.ReadByte() // of the body
	}
	for way, relay := range map[string]struct {
		address func(end func(*rawConn)) string
		ends    func(*rawConn)
	}{
		"TLS":    {func(end func(*rawConn)) string { return "wss://" + newRawRelay(t, relayTLS(), end) }, http1},
		"plain":  {func(end func(*rawConn)) string { return "ws://" + newRawRelay(t, nil, end) }, http1},
		"HTTP/2": {func(end func(*rawConn)) string { return "wss://" + newRawRelay(t, relayTLSWithHTTP2(), end) }, http2Data},
	} {
		for name, end := range map[string]func(*rawConn){
			"close": func(c *rawConn) { c.Close() },
			"reset": func(c *rawConn) { reset(c.Conn) },
		} {
			address := relay.address(func(c *rawConn) { relay.ends(c); end(c) })
			p := start(t, mountOn(address, ""))
			for _, body := range unfinished[:2] {
				c := p.dial(t, "")
				c.request("POST", "/websocket/trace", body[0], "Origin: https://page.example")
				c.write(body[1])
				response, err := http.ReadResponse(c.r, nil)
				if err != nil {
					t.Fatalf("%s, %s, %s: %v", way, name, body[0], err)
				}
				wantRefusal(t, strings.Join([]string{way, name, body[0]}, ", "), response, http.StatusBadGateway)
				c.close()
			}
			stop(t)
		}
	}
}

// http2Data reads up to the first piece of a body over HTTP/2.
func http2Data(c *rawConn) {
	if r, err := newH2Relay(c); err == nil {
		r.await(http2.FrameData)
	}
}

// TestEmptyPost: a POST without a body says so, whichever way it takes.
func TestEmptyPost(t *testing.T) {
	for way, options := range transportWays {
		heads := make(chan string, 1)
		address := newRawRelay(t, relayTLS(), func(c *rawConn) {
			head, err := c.head()
			if err != nil {
				t.Error(err)
			}
			heads <- head
			c.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			c.Close()
		})
		p := start(t, mountOn("wss://"+address, options))
		c := p.dial(t, "")
		c.request("POST", "/websocket/trace", "Content-Length: 0")
		c.wantStatus(c.answer("POST"), http.StatusNoContent)
		head := <-heads
		if !strings.Contains(head, "Content-Length: 0\r\n") || strings.Contains(head, "Transfer-Encoding") {
			t.Errorf("%s: the relay got %q", way, head)
		}
		stop(t)
	}
}
