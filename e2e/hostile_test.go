package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// hostileBodies are what a browser runs a script in, if it may. SCRIPT stands for it.
var hostileBodies = map[string]string{
	"script": `SCRIPT`,
	"html":   `<!doctype html><title>page</title><script>SCRIPT</script>`,
	"xhtml":  `<html xmlns="http://www.w3.org/1999/xhtml"><head><title>page</title><script><![CDATA[SCRIPT]]></script></head></html>`,
	"svg":    `<svg xmlns="http://www.w3.org/2000/svg"><script><![CDATA[SCRIPT]]></script></svg>`,
	"xml":    `<?xml version="1.0"?><x><script xmlns="http://www.w3.org/1999/xhtml"><![CDATA[SCRIPT]]></script></x>`,
	"xslt": `<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#sheet"?><!DOCTYPE x [<!ATTLIST xsl:stylesheet id ID #REQUIRED>]>` +
		`<x><xsl:stylesheet id="sheet" version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/">` +
		`<html xmlns="http://www.w3.org/1999/xhtml"><script><![CDATA[SCRIPT]]></script></html></xsl:template></xsl:stylesheet></x>`,
}

// hostileFields are what a relay would decide for the whole of the operator's origin, or
// for the page that it sends. OPERATOR stands for that origin.
var hostileFields = map[string]string{
	"Set-Cookie":                  relayCookie + "; Path=/; Secure; SameSite=None",
	"Clear-Site-Data":             `"*"`,
	"Service-Worker-Allowed":      "/",
	"Refresh":                     "0; url=/act?refresh",
	"Link":                        `</act?preload>; rel=preload; as=fetch, </act?prefetch>; rel=prefetch`,
	"Content-Security-Policy":     "default-src * 'unsafe-inline' 'unsafe-eval' data: blob:",
	"X-Content-Type-Options":      "sniff",
	"Report-To":                   `{"group":"default","max_age":60,"endpoints":[{"url":"OPERATOR/act?report"}]}`,
	"Reporting-Endpoints":         `default="OPERATOR/act?report"`,
	"NEL":                         `{"report_to":"default","max_age":60,"success_fraction":1}`,
	"Alt-Svc":                     `h3=":9"; ma=60`,
	"Strict-Transport-Security":   "max-age=60; includeSubDomains",
	"Use-As-Dictionary":           `match="/*"`,
	"Access-Control-Allow-Origin": "*",
	"Cache-Control":               "max-age=60",
}

// hostileRelay responds below /hostile as the query says: with a kind of body, a type, a
// status and a location. The script's name is the query's.
func hostileRelay(next http.Handler) http.Handler {
	script, err := pageFiles.ReadFile("page/hostile.js")
	if err != nil {
		panic(err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hostile" {
			next.ServeHTTP(w, r)
			return
		}
		query := r.URL.Query()
		for field, value := range hostileFields {
			w.Header().Set(field, strings.ReplaceAll(value, "OPERATOR", "https://"+r.Header.Get("X-Forwarded-Host")))
		}
		w.Header()["Content-Type"] = query["type"] // several, or none: then nothing is said
		if to := query.Get("location"); to != "" {
			w.Header().Set("Location", strings.ReplaceAll(to, "OPERATOR", r.Header.Get("X-Forwarded-Host")))
		}
		status, err := strconv.Atoi(query.Get("status"))
		if err != nil {
			status = http.StatusOK
		}
		w.WriteHeader(status)
		fmt.Fprint(w, strings.ReplaceAll(hostileBodies[query.Get("kind")], "SCRIPT",
			strings.ReplaceAll(string(script), "NAME", query.Get("name"))))
	})
}

// operatorSite is the rest of the proxy's origin. It notes who acts on it.
type operatorSite struct {
	URL string

	mu   sync.Mutex // protects acts
	acts []string
}

func newOperatorSite(t *testing.T) *operatorSite {
	t.Helper()
	s := &operatorSite{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/operator.js":
			http.ServeFileFS(w, r, pageFiles, "page/operator.js")
		case r.URL.Path == "/act":
			s.mu.Lock()
			defer s.mu.Unlock()
			cookie, _, _ := strings.Cut(r.Header.Get("Cookie"), ";")
			s.acts = append(s.acts, strings.Join([]string{r.Method, r.URL.String(), cookie}, " "))
		default:
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, `<!doctype html><title>operator</title><body><script src="/operator.js"></script>`)
		}
	}))
	t.Cleanup(server.Close)
	s.URL = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	return s
}

// done returns what has been done there.
func (s *operatorSite) done() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.acts)
}

// mark is what a relay has left on the operator's origin, and the origin's own.
type mark struct {
	Scripts, Messages, Cookies, LocalStorage, Databases, Caches, Workers []string

	site   string   // the operator's host
	acts   []string // requests to the operator's site
	titles []string // of tabs in which a script has run
}

// hostileTries are the ways to use what a relay sends, the kinds of it, and the types
// with which a browser may take it for more than text. A comma stands between two lines.
var hostileTries = []struct{ ways, kinds, types []string }{
	{
		[]string{"script", "module", "import", "worker", "module worker", "shared worker", "service worker", "service worker for all"},
		[]string{"script"},
		[]string{"text/javascript", "Application/X-JavaScript; charset=utf-8", "text/plain,text/ecmascript", "", "application/json"},
	},
	{[]string{"iframe", "object", "embed", "form", "open", "websocket"}, []string{"html"}, []string{"text/html", "", "text/plain"}},
	{[]string{"open"}, []string{"html"}, []string{"*/*", "unknown/unknown"}},
	{[]string{"iframe", "object", "open", "image"}, []string{"svg"}, []string{"image/svg+xml"}},
	{[]string{"iframe", "open"}, []string{"xhtml"}, []string{"application/xhtml+xml"}},
	{[]string{"iframe", "open"}, []string{"xml", "xslt"}, []string{"text/xml", "application/xml"}},
}

// TestHostileRelay has the operator's page in Chromium use in every way, and a tab open,
// what a relay sends to have it run as the operator's origin. None of it runs, and
// nothing of the origin has changed.
func TestHostileRelay(t *testing.T) {
	got := tryHostile(t)
	for what, lists := range map[string][2][]string{
		"scripts in the operator's page":  {got.Scripts, {}},
		"messages from scripts":           {got.Messages, {}},
		"cookies":                         {got.Cookies, {siteCookie}},
		"localStorage":                    {got.LocalStorage, {"operator"}},
		"databases":                       {got.Databases, {}},
		"caches":                          {got.Caches, {}},
		"service workers":                 {got.Workers, {}},
		"requests to the operator's site": {got.acts, nil},
		"tabs in which scripts have run":  {got.titles, nil},
	} {
		if !slices.Equal(lists[0], lists[1]) {
			t.Errorf("%s: %q, want %q", what, lists[0], lists[1])
		}
	}
}

// TestHostileRelayUndone is the same where header_down undoes the rules. It shows what a
// relay could do without them, and that TestHostileRelay would see it.
func TestHostileRelayUndone(t *testing.T) {
	got := tryHostile(t, "header_down -Content-Security-Policy", "header_down -X-Content-Type-Options",
		"header_down Content-Type {http.watchrtc_proxy.header.Content-Type}",
		"header_down Location {http.watchrtc_proxy.header.Location}",
		"header_down Refresh {http.watchrtc_proxy.header.Refresh}",
		"header_down Service-Worker-Allowed {http.watchrtc_proxy.header.Service-Worker-Allowed}")
	for what, list := range map[string]struct {
		got  []string
		want string
	}{
		"scripts in the operator's page":   {got.Scripts, "script script text/javascript"},
		"messages from scripts":            {got.Messages, "iframe html text/html"},
		"messages from workers":            {got.Messages, "worker script text/javascript"},
		"cookies":                          {got.Cookies, "iframe+html+text/html=1"},
		"localStorage":                     {got.LocalStorage, "form html text/html"},
		"service workers":                  {got.Workers, "https://" + got.site + "/"},
		"redirects to the operator's site": {got.acts, "POST /act?redirect " + siteCookie},
		"refreshes to the operator's site": {got.acts, "GET /act?refresh " + siteCookie},
		"tabs in which scripts have run":   {got.titles, "open svg image/svg+xml"},
	} {
		if !slices.Contains(list.got, list.want) {
			t.Errorf("%s: %q, want %q among them", what, list.got, list.want)
		}
	}
}

// tryHostile makes every try, and returns what is left of it.
func tryHostile(t *testing.T, options ...string) mark {
	s := newSetup(t, relay.Config{Wrap: hostileRelay}, caddy.Config{})
	site := newOperatorSite(t)
	s.pages = site.URL
	s.proxy.Load(t, s.site(s.relay.URL(), options...))
	s.addr = "rtc.site.test:" + port(s.addr)
	b := browser.Start(t, browser.NoQUIC)
	page, tab := b.Open(t, "https://"+s.addr), b.Open(t, "about:blank")
	page.SetCookie(t, "https://"+s.addr, siteCookie)
	page.Run(t, "localStorage.operator = 1")

	var titles []string
	use := func(way string, query url.Values) {
		target := s.url("https") + "/hostile?" + query.Encode()
		if way != "open" {
			page.Run(t, fmt.Sprintf("await use(%q, %q)", way, target))
			return
		}
		tab.Go(t, target)
		if title := tab.Title(t); title == query.Get("name") {
			titles = append(titles, title)
		}
	}
	for _, try := range hostileTries {
		for _, way := range try.ways {
			for _, kind := range try.kinds {
				for _, types := range try.types {
					query := url.Values{"kind": {kind}, "name": {fmt.Sprintf("%s %s %s", way, kind, types)}}
					if types != "" {
						query["type"] = strings.Split(types, ",")
					}
					use(way, query)
				}
			}
		}
	}
	for _, status := range []string{"302", "307", "308"} {
		for _, location := range []string{"/act?redirect", "https://OPERATOR/act?redirect", "//OPERATOR/act?redirect"} {
			use("fetch", url.Values{"status": {status}, "location": {location}})
		}
	}
	got := browser.Eval[mark](t, page, "left()")
	got.site, got.acts, got.titles = s.addr, site.done(), titles
	return got
}
