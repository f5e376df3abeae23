package integration_test

import (
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRelayBreaksOffAtAnyTime has relays that break off responses while clients upload a
// byte at a time, and stop when the response begins. Whatever read of the upload is under
// way by then, or begins meanwhile, the client sees the end of the response at once.
func TestRelayBreaksOffAtAnyTime(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.ReadExactly(3)
		time.Sleep(rand.N(2 * time.Millisecond))
		c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut")
		c.CloseWrite()
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr))
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 25 {
				c, err := p.tryDial(t)
				if err != nil {
					t.Error(err)
					return
				}
				c.WriteRequest("POST", "/websocket/trace", "Transfer-Encoding: chunked")
				var stop atomic.Bool
				var sending sync.WaitGroup
				sending.Go(func() {
					for !stop.Load() && c.WriteText("1\r\nx\r\n") == nil {
						time.Sleep(rand.N(100 * time.Microsecond))
					}
				})
				response, err := http.ReadResponse(c.R, nil)
				stop.Store(true)
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
				}
				if isTimeout(err) {
					t.Error("the response does not end")
				}
				c.close()
				sending.Wait()
			}
		})
	}
	clients.Wait()
}
