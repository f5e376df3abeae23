package integration_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRefusedUploadBehindTimeouts has an upload that goes on in small pieces when the relay
// has refused it. A route's timeouts, which count each piece, do not keep its connection.
func TestRefusedUploadBehindTimeouts(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.R.Peek(1)
		c.WriteText("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
		c.ReadToEnd()
	}).Addr
	p := start(t, site{
		server: "timeouts {\nread_body_idle -1s\n}",
		body:   "route {\ntimeouts {\nread_timeout 1h\n}\n" + directive("/websocket", "wss://"+addr) + "\n}",
	})
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
	c.write("1\r\nx\r\n")
	c.wantStatus(c.response("POST"), http.StatusRequestEntityTooLarge)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		if _, err := c.ReadToEnd(); isTimeout(err) {
			t.Error("the connection does not end")
		}
	}()
	piece := time.NewTicker(100 * time.Millisecond)
	defer piece.Stop()
	for {
		select {
		case <-ended:
			return
		case <-piece.C:
			c.WriteText("1\r\nx\r\n")
		}
	}
}
