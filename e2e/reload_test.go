package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// oldRetry is how long the older SDK waits between its attempts to come back.
const oldRetry = 30 * time.Second

// TestReload changes the configuration under a session. The SDK notices nothing.
func TestReload(t *testing.T) {
	eachSDK(t, func(t *testing.T, sdk string) {
		s := newSetup(t, relay.Config{}, caddy.Config{})
		page := s.connect(t, browser.Start(t, browser.NoQUIC), sdk)
		conn := s.conn(t, 0)
		states := browser.Eval[int](t, page, "states.length")
		closes := browser.Eval[int](t, page, "closes.length")

		for i := range 5 {
			s.proxy.Load(t, s.site(s.relay.URL(), fmt.Sprintf("header_up X-Reload %d", i), "idle_timeout 5m"))
			page.Run(t, fmt.Sprintf(`watchRTC.addEvent({ name: "reload-%d", type: "global" })`, i))
			s.awaitText(t, conn, fmt.Sprintf(`"reload-%d"`, i))
		}
		if got := browser.Eval[int](t, page, "states.length"); got != states {
			t.Errorf("the SDK reports %d more states", got-states)
		}
		if got := browser.Eval[int](t, page, "closes.length"); got != closes {
			t.Errorf("%d WebSockets closed", got-closes)
		}
		if _, err := s.relay.WaitConn(expired(t), conn.ID+1); err == nil {
			t.Error("the relay has a new connection")
		}
	})
}

// TestUpstreamReplaced has a reload drop the upstream of a session. The SDK comes
// back by itself and is taken to the new one.
func TestUpstreamReplaced(t *testing.T) {
	eachSDK(t, func(t *testing.T, sdk string) {
		s := newSetup(t, relay.Config{}, caddy.Config{}, "drain_window 1s")
		page := s.connect(t, browser.Start(t, browser.NoQUIC), sdk)
		conn := s.conn(t, 0)

		s.relay = relay.Start(t, s.ca, relay.Config{})
		s.proxy.Load(t, s.site(s.relay.URL(), "drain_window 1s"))
		page.Await(t, patience, "closes.some((c) => c.code === 1001 && c.wasClean)")
		closed := time.Now()
		page.Run(t, `watchRTC.addEvent({ name: "after-change", type: "global" })`)
		s.awaitText(t, s.conn(t, 0), `"after-change"`)
		t.Logf("back within %v", time.Since(closed))
		if code, _ := conn.CloseCode(); code != 1001 {
			t.Errorf("the old relay saw close code %d, want 1001", code)
		}
	})
}

// TestRestart stops the proxy and starts it again. The SDK comes back by itself.
func TestRestart(t *testing.T) {
	t.Parallel()
	eachSDK(t, func(t *testing.T, sdk string) {
		t.Parallel() // most of it is waiting for the SDK's next attempt
		s := newSetup(t, relay.Config{}, caddy.Config{}, "drain_window 1s")
		page := s.connect(t, browser.Start(t, browser.NoQUIC), sdk)
		conn := s.conn(t, 0)
		before := browser.Eval[int](t, page, "connections()")

		if code := s.proxy.Stop(); code != 0 {
			t.Errorf("Caddy ended with %d", code)
		}
		page.Await(t, patience, `states.at(-1).connectionStatus === "disconnected"`)
		page.Await(t, patience, "closes.some((c) => c.code === 1001 && c.wasClean)")
		if code, _ := conn.CloseCode(); code != 1001 {
			t.Errorf("the relay saw close code %d, want 1001", code)
		}

		s.proxy.Restart(t)
		page.Await(t, patience+oldRetry, fmt.Sprintf("connections() > %d", before))
		page.Run(t, `watchRTC.addEvent({ name: "after-restart", type: "global" })`)
		s.awaitText(t, s.conn(t, conn.ID), `"after-restart"`)
	})
}
