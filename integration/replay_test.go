package integration_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestNoReplayWithIdempotencyKey is TestNoReplay with a key that header_up adds:
// http.Transport takes it for leave to send the request again.
func TestNoReplayWithIdempotencyKey(t *testing.T) {
	for _, field := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		var seen atomic.Int64
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			seen.Add(1)
			c.WriteResponse("200 OK", "")
			if _, err := c.ReadRequest(); err == nil {
				seen.Add(1)
			}
		}).Addr
		p := start(t, mount("wss://"+addr, "header_up "+field+" {http.request.uuid}", transport("max_conns_per_host 100")))
		c := p.dial(t)
		for _, want := range []int{http.StatusOK, http.StatusBadGateway} {
			c.request("POST", "/websocket/trace", "Content-Length: 0")
			if status := c.response("POST").StatusCode; status != want {
				t.Errorf("%s: status %d, want %d", field, status, want)
			}
		}
		if n := seen.Load(); n != 2 {
			t.Errorf("%s: the relay saw %d requests, want 2", field, n)
		}
		p.stop(t)
	}
}
