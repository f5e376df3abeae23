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
