package integration_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRefusedUploadsEnd has relays that break off during uploads, whose clients get a 502
// and neither send more nor close their connections. Each is closed all the same, within
// abandonedBody and what net/http adds: no connection and goroutine stays for as long as a
// client likes. By the time a handler returns, net/http may be about to end the read of a
// piece that was given up, and then it takes the connection's read deadline away, whoever
// has set it.
func TestRefusedUploadsEnd(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.ReadExactly(1)
		c.Reset()
	}).Addr
	p := start(t, mount("wss://"+addr))
	var clients sync.WaitGroup
	for range 60 {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Content-Length: 100000")
		c.write("x")
		c.wantStatus(c.response("POST"), http.StatusBadGateway)
		clients.Go(func() {
			if _, err := c.ReadToEnd(); isTimeout(err) {
				t.Error("the connection does not end")
			}
		})
	}
	clients.Wait()
}
