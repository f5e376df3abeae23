package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

const (
	siteCookie  = "operator=secret" // of the proxy's domain; not for the relay
	relayCookie = "relay=tracker"   // what a relay may try to set
)

// TestHTTPS has both releases make each kind of HTTPS request, from a page of
// another origin on the same site and from one of the proxy's origin. Cookies cross
// in neither direction.
func TestHTTPS(t *testing.T) {
	for _, origin := range []string{"other origin", "same origin"} {
		t.Run(origin, func(t *testing.T) {
			eachSDK(t, func(t *testing.T, sdk string) { testHTTPS(t, sdk, origin == "same origin") })
		})
	}
}

func testHTTPS(t *testing.T, sdk string, sameOrigin bool) {
	s := newSetup(t, relay.Config{Wrap: setCookies},
		caddy.Config{Global: []string{"servers {\n\t\tlog_credentials\n\t}"}})
	s.pages = servePages(t, sdk)
	s.proxy.Load(t, s.site(s.relay.URL()))
	s.addr = "rtc.site.test:" + port(s.addr)
	from := "https://" + s.addr
	if !sameOrigin {
		from = "https://app.site.test:" + port(s.addr)
	}
	page := browser.Start(t, browser.NoQUIC).Open(t, from)
	page.SetCookie(t, "https://"+s.addr, siteCookie)
	page.Run(t, fmt.Sprintf("await start(%q, 'e2e-room')", s.url("wss")))
	page.Await(t, patience, "connected()")
	handshake := s.conn(t, 0).Request
	s.checkCrossing(t, handshake, true)

	page.Run(t, "await runQuality()")
	s.checkCrossing(t, s.request(t, http.MethodGet, "/get-qualityrtc-config"), sameOrigin)

	page.Run(t, "await failGetUserMedia()")
	report := s.request(t, http.MethodPost, "/error")
	s.checkCrossing(t, report, sameOrigin)
	checkBody(t, report, "getUserMediaOnFailure")

	page.Run(t, "watchRTC.disconnect(); await watchRTC.setUserRating(5, 'e2e-comment')")
	trace := s.request(t, http.MethodPost, "/trace")
	s.checkCrossing(t, trace, sameOrigin)
	checkBody(t, trace, "userRating", "e2e-comment")

	for _, cookie := range page.Cookies(t) {
		if cookie.Name+"="+cookie.Value == relayCookie {
			t.Errorf("the browser has the relay's cookie: %+v", cookie)
		}
	}
}

// setCookies has a relay set a cookie with each response.
func setCookies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", relayCookie+"; Path=/; Secure; SameSite=None")
		next.ServeHTTP(w, r)
	})
}

// checkCrossing checks what the relay saw of a request besides its body. The proxy's
// access log proves that the browser had sent its cookie, where it should have.
func (s *setup) checkCrossing(t *testing.T, r devrelay.Request, cookieSent bool) {
	t.Helper()
	if cookies := r.Header["Cookie"]; len(cookies) > 0 {
		t.Errorf("%s %s: the relay sees %q", r.Method, r.URI, cookies)
	}
	if got := r.Header.Get("X-Forwarded-For"); got != "127.0.0.1" {
		t.Errorf("%s %s: X-Forwarded-For %q, want 127.0.0.1", r.Method, r.URI, got)
	}
	path, _, _ := strings.Cut(r.URI, "?")
	target := fmt.Sprintf(`"uri":%q`, mount+strings.TrimSuffix(path, "/"))
	line := s.proxy.Await(t, patience, "handled request", fmt.Sprintf(`"method":%q`, r.Method), strings.TrimSuffix(target, `"`))
	if sent := strings.Contains(line, siteCookie); sent != cookieSent {
		t.Errorf("%s %s: the browser sent its cookie to the proxy: %v, want %v: %s", r.Method, r.URI, sent, cookieSent, line)
	}
}

func checkBody(t *testing.T, r devrelay.Request, words ...string) {
	t.Helper()
	for _, word := range append(words, `"rtcRoomId":"e2e-room"`) {
		if !strings.Contains(string(r.Body), word) {
			t.Errorf("%s: %s lacks %q", r.URI, r.Body, word)
		}
	}
}
