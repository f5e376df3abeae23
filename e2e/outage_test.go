package e2e

import (
	"net/http"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// seen is what page code can see of a response.
type seen struct {
	Status int
	Text   string
}

// TestRelayDown has each release of the SDK start while the relay is down. It says
// so, page code can read the status of a failing request, and the SDK connects once
// the relay is up.
func TestRelayDown(t *testing.T) {
	t.Parallel()
	eachSDK(t, testRelayDown)
}

func testRelayDown(t *testing.T, sdk string) {
	t.Parallel() // most of it is waiting for the SDK's next attempt
	s := newSetup(t, relay.Config{}, caddy.Config{})
	down := wstest.FreeAddr(t)
	s.proxy.Load(t, s.site("wss://"+down))

	page := browser.Start(t, browser.NoQUIC).Open(t, servePages(t, sdk))
	page.Run(t, "await start('"+s.url("wss")+"', 'e2e-room')")
	page.Await(t, patience, "states.length > 0")
	want := map[string]string{
		sdkNew: "disconnected cantConnectToServer",
		sdkOld: "disconnected ", // it knows no reasons
	}
	if got := browser.Eval[string](t, page, "states[0].connectionStatus + ' ' + (states[0].reason ?? '')"); got != want[sdk] {
		t.Errorf("the SDK reports %q, want %q", got, want[sdk])
	}
	if got := browser.Eval[seen](t, page, "post('"+s.url("https")+"/trace')"); got.Status != http.StatusBadGateway {
		t.Errorf("page code sees %+v, want status 502", got)
	}

	s.relay = relay.Start(t, s.ca, relay.Config{Addr: down})
	page.Await(t, patience+oldRetry, "connected()")
	if got := browser.Eval[seen](t, page, "post('"+s.url("https")+"/trace')"); got.Status != http.StatusOK {
		t.Errorf("page code sees %+v, want status 200", got)
	}
}
