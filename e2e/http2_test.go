package e2e

import (
	"fmt"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// allowHTTP2 lets Go's server offer RFC 8441, which it does not by itself.
const allowHTTP2 = "GODEBUG=http2xconnect=1"

// TestHTTP2 has the SDK connect from a page of the proxy's origin, to which the
// browser has an HTTP/2 connection. Its WebSocket becomes a stream of that, if
// Caddy is told to allow it.
func TestHTTP2(t *testing.T) {
	t.Run("allowed", func(t *testing.T) {
		s := newSetup(t, relay.Config{}, caddy.Config{Env: []string{allowHTTP2}})
		page, conn := s.connectSameOrigin(t, browser.NoQUIC)
		checkVia(t, conn.Request, "2.0 Caddy")
		checkHandshake(t, conn)

		s.proxy.Load(t, s.site(s.relay.URL(), "header_up X-Reload 1"))
		page.Run(t, `watchRTC.addEvent({ name: "after-reload", type: "global" })`)
		s.awaitText(t, conn, `"after-reload"`)

		page.Run(t, "watchRTC.disconnect()")
		s.checkClosed(t, page, conn, 1000)
	})
	t.Run("not allowed", func(t *testing.T) {
		s := newSetup(t, relay.Config{}, caddy.Config{})
		_, conn := s.connectSameOrigin(t, browser.NoQUIC)
		checkVia(t, conn.Request, "1.1 Caddy")
	})
}

// connectSameOrigin has the SDK connect from a page of the proxy's origin.
func (s *setup) connectSameOrigin(t *testing.T, flags ...string) (*browser.Page, *devrelay.Conn) {
	t.Helper()
	s.addr = "rtc.site.test:" + port(s.addr)
	page := browser.Start(t, flags...).Open(t, "https://"+s.addr)
	page.Run(t, fmt.Sprintf("await start(%q, 'e2e-room')", s.url("wss")))
	page.Await(t, patience, "connected()")
	return page, s.conn(t, 0)
}

// checkVia checks by which version of HTTP a request came to the proxy.
func checkVia(t *testing.T, r devrelay.Request, want string) {
	t.Helper()
	if got := r.Header.Get("Via"); got != want {
		t.Errorf("%s %s: Via %q, want %q", r.Method, r.URI, got, want)
	}
}
