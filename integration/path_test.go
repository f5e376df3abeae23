package integration_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestPaths holds the handler to the path table of the documentation: what a
// client asks for, and what the relay sees of it.
func TestPaths(t *testing.T) {
	const elsewhere = "" // goes to the next handler
	for _, test := range []struct {
		name, matcher, base string
		paths               map[string]string
	}{
		{name: "mount", matcher: "/websocket", paths: map[string]string{
			"/websocket?apiKey=k":            "/?apiKey=k",
			"/websocket/?apiKey=k":           "/?apiKey=k",
			"/websocket//?apiKey=k":          "/?apiKey=k",
			"/websocket":                     "/",
			"/websocket/trace":               "/trace",
			"/websocket//trace":              "/trace",
			"/websocket///error":             "/error",
			"/websocket/a//b/":               "/a//b/",
			"/websocket/a%2Fb":               "/a%2Fb",
			"/websocket/a%2Fb|c%25":          "/a%2Fb%7Cc%25",
			"/websocket/%2F\xc3\xa9/%2f":     "/%2F%C3%A9/%2f",
			"/websocket/a%20b%C3%A9":         "/a%20b%C3%A9",
			"/websocket/%3F":                 "/%3F",
			"/%77ebsocket/trace":             "/trace",
			"/WebSocket/trace":               "/trace",
			"/websocket?":                    "/?",
			"/websocket?a=%20&b=+;c&&=&%zz":  "/?a=%20&b=+;c&&=&%zz",
			"/websocket?q=/websocket?x#frag": "/?q=/websocket?x#frag",
			"/websocketX":                    elsewhere,
			"/websocket%2Ftrace":             elsewhere,
			"/websocket/%2e%2e/a":            elsewhere,
			"/websocket/../a":                elsewhere,
			"/websocketX/trace":              elsewhere,
			"/web":                           elsewhere,
			"/":                              elsewhere,
			"/other/websocket":               elsewhere,
		}},
		{name: "mount star", matcher: "/websocket*", paths: map[string]string{
			"/websocket?apiKey=k": "/?apiKey=k", "/websocket//trace": "/trace", "/websocketX": elsewhere,
		}},
		{name: "mount slash star", matcher: "/websocket/*", paths: map[string]string{
			"/websocket?apiKey=k": "/?apiKey=k", "/websocket//trace": "/trace", "/websocketX": elsewhere,
		}},
		{name: "base path", matcher: "/websocket", base: "/base", paths: map[string]string{
			"/websocket?apiKey=k":  "/base/?apiKey=k",
			"/websocket/?apiKey=k": "/base/?apiKey=k",
			"/websocket/trace":     "/base/trace",
			"/websocket//trace":    "/base/trace",
		}},
		{name: "escaped base path", matcher: "/websocket", base: "/a%2Fb/", paths: map[string]string{
			"/websocket/c%2Fd": "/a%2Fb/c%2Fd",
		}},
		{name: "deep mount", matcher: "/rtc/v1", paths: map[string]string{
			"/rtc/v1/trace": "/trace", "/rtc/v1": "/", "/rtc/v2": elsewhere, "/rtc": elsewhere,
		}},
		{name: "no matcher", matcher: "*", paths: map[string]string{
			"/": "/", "/websocket?apiKey=k": "/websocket?apiKey=k", "//trace": "/trace",
		}},
		{name: "named matcher", matcher: "@sdk", paths: map[string]string{
			"/websocket?apiKey=k": "/websocket?apiKey=k", "/websocket/trace": "/websocket/trace", "/x": elsewhere,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			relay := newRelay(t, nil)
			p := start(t, site{body: "@sdk path /websocket /websocket/*\nroute {\n" +
				directive(test.matcher, relay.URL+test.base, "") + "\nrespond elsewhere 404\n}"})
			for asked, want := range test.paths {
				checkPath(t, p, relay, asked, want)
			}
		})
	}
}

// checkPath asks for a path in both ways and compares what the relay sees; want is
// empty for a path that it must not see.
func checkPath(t *testing.T, p *proxy, relay *relay, asked, want string) {
	t.Helper()
	for _, kind := range kinds {
		c := p.dial(t)
		if want == "" {
			c.request("POST", asked, "Content-Length: 0")
			c.wantStatus(c.response("POST"), http.StatusNotFound)
			if relay.saw() {
				t.Errorf("%s %s: the relay saw %s", kind, asked, relay.next(t).RequestURI)
			}
			c.close()
			continue
		}
		c.ask(kind, asked)
		seen := relay.next(t)
		if seen.RequestURI != want {
			t.Errorf("%s %s: the relay saw %s, want %s", kind, asked, seen.RequestURI, want)
		}
		if host := strings.TrimPrefix(relay.URL, "https://"); seen.Host != host {
			t.Errorf("%s %s: Host %s, want the relay's, %s", kind, asked, seen.Host, host)
		}
		c.close()
	}
}

// TestPathPrefix configures the mount in JSON, without a matcher: the handler
// itself lets other paths go to the next one.
func TestPathPrefix(t *testing.T) {
	relay := newRelay(t, nil)
	p := startJSON(t, handlerJSON(relay.URL, `"path_prefix": "/websocket"`)+`, {"handler": "static_response", "status_code": 404}`)
	for asked, want := range map[string]string{
		"/websocket?apiKey=k": "/?apiKey=k",
		"/websocket//trace":   "/trace",
		"/WEBSOCKET/trace":    "/trace",
		"/websocketX":         "",
		"/x/websocket":        "",
		"/":                   "",
	} {
		checkPath(t, p, relay, asked, want)
	}
}
