package integration_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestNoReplayWithIdempotencyKey is TestNoReplay with a key, of header_up's or the
// client's: http.Transport takes it for leave to send the request again.
func TestNoReplayWithIdempotencyKey(t *testing.T) {
	for _, test := range []struct{ option, field string }{
		{option: "header_up Idempotency-Key 1"},
		{option: "header_up X-Idempotency-Key 1"},
		{field: "Idempotency-Key: 1"},
		{field: "X-Idempotency-Key: 1"},
	} {
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
		p := start(t, mount("wss://"+addr, test.option, transport("max_conns_per_host 100")))
		c := p.dial(t)
		for _, want := range []int{http.StatusOK, http.StatusBadGateway} {
			fields := []string{"Content-Length: 0"}
			if test.field != "" {
				fields = append(fields, test.field)
			}
			c.request("POST", "/websocket/trace", fields...)
			if status := c.response("POST").StatusCode; status != want {
				t.Errorf("%s%s: status %d, want %d", test.option, test.field, status, want)
			}
		}
		if n := seen.Load(); n != 2 {
			t.Errorf("%s%s: the relay saw %d requests, want 2", test.option, test.field, n)
		}
		p.stop(t)
	}
}

// TestNoReplayOverHTTP2 has a relay that refuses a request over HTTP/2 when it has all
// of it, in each way that http.Transport takes for leave to send it again. One request
// of a client must be one of the relay's.
func TestNoReplayOverHTTP2(t *testing.T) {
	for how, refuse := range map[string]func(*h2Relay) error{
		"REFUSED_STREAM": func(r *h2Relay) error { return r.framer.WriteRSTStream(1, http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(r *h2Relay) error { return r.framer.WriteGoAway(0, http2.ErrCodeNo, nil) },
	} {
		for _, method := range []string{"GET", "PUT", "POST"} {
			var seen atomic.Int64
			config := leaf.ServerConfig("h2")
			addr := rawRelayWith(t, config, func(c *wstest.Conn) {
				relay, err := newH2Relay(c)
				if err != nil {
					return
				}
				for relay.await(http2.FrameHeaders) == nil {
					seen.Add(1)
					refuse(relay)
				}
			}).Addr
			p := start(t, mount("wss://"+addr, "handshake_timeout 3s", transport("versions 2")))
			c := p.dial(t)
			c.request(method, "/websocket/trace", "Content-Length: 0")
			status := c.response(method).StatusCode
			if n := seen.Load(); n != 1 || status != http.StatusBadGateway {
				t.Errorf("%s, %s: the relay saw %d requests, want 1; status %d", how, method, n, status)
			}
			c.close()
			p.stop(t)
		}
	}
}
