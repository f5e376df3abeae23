package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// retried is longer than either release of the SDK waits before it comes back for the
// first time: 30 ms and 4 s.
const retried = 6 * time.Second

// outcome is what page code can see of an SDK that has been refused, and what it cost.
type outcome struct {
	States   []string
	Errors   []string
	Closes   []int
	Attempts []int // when a WebSocket was asked for, in ms since the page was loaded
	Opened   []int // when there was one
}

func outcomeOf(t *testing.T, page *browser.Page) outcome {
	t.Helper()
	return browser.Eval[outcome](t, page, `({
		States: states.map((s) => s.connectionStatus + (s.reason ? " " + s.reason : "")),
		Errors: socketErrors.map((e) => e.code + " " + e.text),
		Closes: closes.map((c) => c.code),
		Attempts: attempts,
		Opened: opened,
	})`)
}

// stopped reports whether there were no attempts after those at first. An SDK that does not
// stop comes back within 4 s, and again and again. The older one's first two may be a second
// apart on a busy machine.
func (o outcome) stopped() bool { return o.Attempts[len(o.Attempts)-1]-o.Attempts[0] <= 2500 }

// mostAtFirst is how many WebSockets a page of these tests may have before the SDK stops.
// The older one asks for one for each of the page's two peer connections. Mostly it gives
// the first up, but where the greeting is quicker than the second, both are greeted.
var mostAtFirst = map[string]int{sdkNew: 1, sdkOld: 2}

// TestRefused has the SDK come with a key that is not in api_keys. After a 403 it comes
// back; after a greeting it does not, until the page has another call.
func TestRefused(t *testing.T) {
	t.Parallel()
	eachSDK(t, func(t *testing.T, sdk string) {
		for _, with := range []string{"status", "greeting", "greeting over HTTP/2"} {
			t.Run(with, func(t *testing.T) { testRefused(t, sdk, with) })
		}
	})
}

func testRefused(t *testing.T, sdk, with string) {
	t.Parallel() // most of it is waiting for the SDK's next attempt
	option, over2, _ := strings.Cut(with, " ")
	config := caddy.Config{}
	if over2 != "" {
		config.Env = []string{allowHTTP2}
	}
	s := newSetup(t, relay.Config{}, config, "api_keys other", "refuse_with "+option)
	pages := servePages(t, sdk)
	if over2 != "" {
		s.pages = pages
		s.proxy.Load(t, s.site(s.relay.URL(), "api_keys other", "refuse_with "+option))
		s.addr = "rtc.site.test:" + port(s.addr)
		pages = "https://" + s.addr
	}
	page := browser.Start(t, browser.NoQUIC).Open(t, pages)
	page.Run(t, fmt.Sprintf("await start(%q, 'e2e-room')", s.url("wss")))
	page.Await(t, patience, "states.length > 0")
	if option == "status" {
		// The older SDK asks for several WebSockets at first, and gives up all but one.
		page.Await(t, patience+oldRetry, "attempts.at(-1) - attempts[0] > 500")
		watch(t, page, refusedFor(0))
		if got := outcomeOf(t, page); len(got.Opened) > 0 {
			t.Errorf("after a 403: %+v, want no WebSocket", got)
		}
		return
	}
	watch(t, page, refusedFor(oldRetry+retried))
	got := outcomeOf(t, page)
	want := map[string]string{sdkNew: "disconnected serverRejectedNoRetry", sdkOld: "disconnected"}[sdk]
	most := mostAtFirst[sdk]
	if n := len(got.Opened); n < 1 || n > most || got.States[len(got.States)-1] != want || got.Closes[len(got.Closes)-1] != 1008 {
		t.Errorf("after a greeting: %+v, want 1 to %d WebSockets, the last closed with 1008, and %q at the end", got, most, want)
	}
	if !got.stopped() {
		t.Errorf("after a greeting: %+v, want no attempt after those at first", got)
	}
	page.Run(t, "watchRTC.connect()")
	page.Await(t, patience, fmt.Sprintf("opened.length === %d", len(got.Opened)+1))
}

// watch leaves the page alone for a while, and logs what has come of it.
func watch(t *testing.T, page *browser.Page, d time.Duration) {
	t.Helper()
	page.Await(t, d+patience, fmt.Sprintf("performance.now() - attempts[0] > %d", d.Milliseconds()))
	t.Logf("after %v: %+v", d, outcomeOf(t, page))
}

// refusedFor is how long a refused SDK is watched: d, or WATCHRTC_E2E_REFUSED_FOR, which
// was 8m for the figures of docs/admission.md.
func refusedFor(d time.Duration) time.Duration {
	if long, err := time.ParseDuration(os.Getenv("WATCHRTC_E2E_REFUSED_FOR")); err == nil {
		return long
	}
	return d
}

// TestWhatStops finds out what makes the SDK stop: nothing but a first message with an
// error that is not empty.
func TestWhatStops(t *testing.T) {
	t.Parallel()
	const greeting = `{"connectionId":"c","projectId":"p","interval":8000,"sendInterval":1}`
	variants := []struct {
		name     string
		messages []string
		code     websocket.StatusCode // 0: the connection is left to the SDK
		stops    bool
	}{
		{"error", []string{`{"error":"no"}`}, 0, true},
		{"error and Close 1008", []string{`{"error":"no"}`}, 1008, true},
		{"error and Close 1000", []string{`{"error":"no"}`}, 1000, true},
		{"error that is no text", []string{`{"error":true}`}, 1008, true},
		{"empty error", []string{`{"error":""}`}, 1008, false},
		{"no JSON", []string{`refused`}, 1008, false},
		{"Close 1008 alone", nil, 1008, false},
		{"Close 1000 alone", nil, 1000, false},
		{"Close 4001 alone", nil, 4001, false},
		{"error after a greeting", []string{greeting, `{"error":"no"}`}, 1008, true},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		fmt.Sscanf(r.URL.Path, "/%d", &n)
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"2.0"}})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		for _, message := range variants[n].messages {
			ws.Write(r.Context(), websocket.MessageText, []byte(message))
		}
		if variants[n].code != 0 {
			ws.Close(variants[n].code, "")
			return
		}
		for {
			if _, _, err := ws.Read(r.Context()); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	eachSDK(t, func(t *testing.T, sdk string) {
		b, pages := browser.Start(t, browser.NoQUIC), servePages(t, sdk)
		for n, variant := range variants {
			t.Run(variant.name, func(t *testing.T) {
				t.Parallel()
				page := b.Open(t, pages)
				page.Run(t, fmt.Sprintf("await start('%s/%d', 'e2e-room')", strings.Replace(server.URL, "http", "ws", 1), n))
				page.Await(t, patience, "opened.length > 0")
				watch(t, page, retried+time.Second)
				got := outcomeOf(t, page)
				if got.stopped() != variant.stops || variant.stops && len(got.Opened) > mostAtFirst[sdk] {
					t.Errorf("stopped: %t, want %t; %+v", got.stopped(), variant.stops, got)
				}
			})
		}
	})
}
