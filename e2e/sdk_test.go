package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// closeCode is the code that an SDK's disconnect() leads to: the newer sends 1000, the
// older sends none, which counts as 1005 (RFC 6455, section 7.4.1).
var closeCode = map[string]int{sdkNew: 1000, sdkOld: 1005}

// eachSDK runs a test with both releases.
func eachSDK(t *testing.T, test func(t *testing.T, sdk string)) {
	for _, sdk := range []string{sdkNew, sdkOld} {
		t.Run(sdk, func(t *testing.T) { test(t, sdk) })
	}
}

// connect opens the page and has the SDK connect through the proxy.
func (s *setup) connect(t *testing.T, b *browser.Browser, sdk string) *browser.Page {
	t.Helper()
	page := b.Open(t, servePages(t, sdk))
	page.Run(t, fmt.Sprintf("await start(%q, 'e2e-room')", s.url("wss")))
	page.Await(t, patience, "connected()")
	return page
}

// TestSDK follows one session of the SDK from its handshake to its end.
func TestSDK(t *testing.T) {
	eachSDK(t, func(t *testing.T, sdk string) {
		s := newSetup(t, relay.Config{}, caddy.Config{})
		page := s.connect(t, browser.Start(t, browser.NoQUIC), sdk)
		conn := s.conn(t, 0)
		checkHandshake(t, conn)

		page.Run(t, `watchRTC.addEvent({ name: "e2e-event", type: "global", parameters: { answer: 42 } })`)
		s.awaitText(t, conn, `"e2e-event"`, `"answer":42`)
		s.awaitText(t, conn, `[["getstats"`)

		page.Run(t, "watchRTC.disconnect()")
		s.checkClosed(t, page, conn, closeCode[sdk])
	})
}

func checkHandshake(t *testing.T, conn *devrelay.Conn) {
	t.Helper()
	uri, err := url.ParseRequestURI(conn.Request.URI)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(conn.Request.URI, "/?apiKey=e2e-key&timestamp=") || uri.Query().Get("apiKey") != "e2e-key" {
		t.Errorf("the relay sees %s, want /?apiKey=e2e-key&timestamp=…", conn.Request.URI)
	}
	if conn.Subprotocol != "2.0" {
		t.Errorf("subprotocol %q, want 2.0", conn.Subprotocol)
	}
	if got := conn.Request.Header.Get("X-Forwarded-For"); got != "127.0.0.1" {
		t.Errorf("X-Forwarded-For %q, want 127.0.0.1", got)
	}
}

// awaitText waits for a message of conn that holds each of words once it is
// decompressed, and returns it.
func (s *setup) awaitText(t *testing.T, conn *devrelay.Conn, words ...string) string {
	t.Helper()
	ctx := soon(t)
	for n := int64(1); ; n++ {
		message, err := conn.WaitMessage(ctx, n)
		if err != nil {
			t.Fatalf("no message with %q, the %dth: %v", words, n, err)
		}
		text := s.text(t, message)
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) }) {
			return text
		}
	}
}

// text returns the beginning of a message as the relay's page shows it.
func (s *setup) text(t *testing.T, message devrelay.Message) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	s.relay.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/_relay/state", nil))
	var state struct {
		Messages []struct {
			Connection, Seq int64
			Text            string
		}
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &state); err != nil {
		t.Fatal(err)
	}
	for _, shown := range state.Messages {
		if shown.Connection == message.Conn.ID && shown.Seq == message.Seq {
			return shown.Text
		}
	}
	t.Fatalf("the relay does not show message %d", message.Seq)
	return ""
}

// checkClosed waits for the end that the SDK asked for, on both legs.
func (s *setup) checkClosed(t *testing.T, page *browser.Page, conn *devrelay.Conn, want int) {
	t.Helper()
	select {
	case <-conn.Done():
	case <-time.After(patience):
		t.Fatal("the relay's leg is still open")
	}
	if code, _ := conn.CloseCode(); code != want {
		t.Errorf("the relay saw close code %d, want %d", code, want)
	}
	page.Await(t, patience, "closes.at(-1)?.wasClean")
	if code := browser.Eval[int](t, page, "closes.at(-1).code"); code != want {
		t.Errorf("the browser saw close code %d, want %d", code, want)
	}
	s.proxy.Await(t, patience, "tunnel closed", fmt.Sprintf(`"close_code":%d`, want), `"closed_by":"client"`, `"reason":"close frame"`)
}
