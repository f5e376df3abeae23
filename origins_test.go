package watchrtcproxy

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
)

func newTestOrigins(t *testing.T, words ...string) *origins {
	t.Helper()
	o, err := newOrigins(words)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrigins(t *testing.T) {
	for configured, origins := range map[string]map[string]bool{
		"https://app.example": {
			"https://app.example": true, "https://app.example:443": true, "HTTPS://App.Example": true,
			"http://app.example": false, "https://app.example:8443": false, "https://app.example.": false,
			"https://app.example/": false, "https://x.app.example": false, "https://app.example.evil": false,
			"https://app.example https://app.example": false, "https://app.example,https://app.example": false,
			"https://app.example@evil": false, "": false, "null": false, "none": false, "*": false,
			"https://app.ex\u0430mple": false, " https://app.example": false,
		},
		"https://app.example:8443": {"https://app.example:8443": true, "https://app.example": false},
		"HTTPS://APP.example:443":  {"https://app.example": true},
		"http://localhost:80":      {"http://localhost": true, "http://localhost:80": true, "https://localhost": false},
		"https://*.example.com": {
			"https://a.example.com": true, "https://a.b.example.com": true, "https://A.EXAMPLE.COM:443": true,
			"https://example.com": false, "https://.example.com": false, "https://evilexample.com": false,
			"https://a..example.com": false, "https://a.example.com.": false, "https://a.example.com:8443": false,
			"http://a.example.com": false, "https://a.example.com.evil": false, "https://evil/.example.com": false,
			"https://evil?.example.com": false, "https://evil#.example.com": false, "https://u@.example.com": false,
			"https://evil:1.example.com": false, "https://*.example.com": false, "https://ev\u0456l.example.com": false,
			"https://\u212a.example.com": false,
		},
		"https://*.example.com:8443":  {"https://a.example.com:8443": true, "https://a.example.com": false, "https://a.example.com:443": false},
		"https://b\u00fccher.example": {"https://xn--bcher-kva.example": true, "https://b\u00fccher.example": false},
		"https://[2001:DB8::1]:8443":  {"https://[2001:db8::1]:8443": true, "https://[2001:db8::1]": false},
		"null":                        {"null": true, "NULL": true, "none": false, "": false},
		"none":                        {"none": false, "null": false, "": false},
		"capacitor://localhost":       {"capacitor://localhost": true, "http://localhost": false},
		"file://":                     {"file://": true, "null": false},
	} {
		o := newTestOrigins(t, configured)
		for origin, want := range origins {
			if got := o.has(origin); got != want {
				t.Errorf("%s: %q is taken: %t, want %t", configured, origin, got, want)
			}
		}
	}
}

// TestOriginOfRequest goes through what requests say of where they come from. The site
// is https://site.example, behind no proxy that is trusted unless forwarded says so.
func TestOriginOfRequest(t *testing.T) {
	const site, app, none = "https://site.example", "https://app.example", "none"
	trusted, err := forward.New([]string{"192.0.2.1"}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name       string
		configured []string
		header     http.Header
		want       bool
	}{
		{"no option", nil, http.Header{"Origin": {"https://evil.example"}}, true},
		{"allowed", []string{app}, http.Header{"Origin": {app}}, true},
		{"other", []string{app}, http.Header{"Origin": {"https://evil.example"}}, false},
		{"twice the same", []string{app}, http.Header{"Origin": {app, app}}, false},
		{"twice", []string{app}, http.Header{"Origin": {app, "https://evil.example"}}, false},
		{"empty", []string{app, none}, http.Header{"Origin": {""}}, false},
		{"without, not configured", []string{app}, nil, false},
		{"without", []string{app, none}, nil, true},
		{"null is not none", []string{app, none}, http.Header{"Origin": {"null"}}, false},
		{"none is not null", []string{app, "null"}, nil, false},
		{"same origin", []string{site}, http.Header{"Sec-Fetch-Site": {"same-origin"}}, true},
		{"same origin, which is not configured", []string{app, none}, http.Header{"Sec-Fetch-Site": {"same-origin"}}, false},
		{"same origin twice", []string{site, none}, http.Header{"Sec-Fetch-Site": {"same-origin", "same-origin"}}, false},
		{"same site is another origin", []string{site, none}, http.Header{"Sec-Fetch-Site": {"same-site"}}, false},
		{"another site that tells no origin", []string{site, none}, http.Header{"Sec-Fetch-Site": {"cross-site"}}, false},
		{"typed by the user", []string{site, none}, http.Header{"Sec-Fetch-Site": {"none"}}, true},
		{"typed by the user, not configured", []string{site}, http.Header{"Sec-Fetch-Site": {"none"}}, false},
		{"Origin counts first", []string{site}, http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"same-origin"}}, false},
		{"another proxy's host", []string{site}, http.Header{
			"Sec-Fetch-Site": {"same-origin"}, "X-Forwarded-Host": {"front.example"}, "X-Forwarded-Proto": {"http"},
		}, false},
		{"the front's own", []string{"http://front.example"}, http.Header{
			"Sec-Fetch-Site": {"same-origin"}, "X-Forwarded-Host": {"front.example"}, "X-Forwarded-Proto": {"http"},
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, site+"/get-qualityrtc-config", nil)
			r.TLS, r.RemoteAddr = &tls.ConnectionState{HandshakeComplete: true}, "192.0.2.1:1"
			if test.header != nil {
				r.Header = test.header
			}
			if got := newTestOrigins(t, test.configured...).allow(r, trusted); got != test.want {
				t.Errorf("taken: %t, want %t", got, test.want)
			}
		})
	}
}

// TestOriginMistakes: each says what is wrong, and what was meant where that is plain.
func TestOriginMistakes(t *testing.T) {
	t.Setenv("TEST_ORIGIN", "app.example")
	for word, want := range map[string]string{
		"":                                    "no origin",
		"*":                                   "all origins are allowed where the option is left out",
		"app.example":                         `did you mean "https://app.example"?`,
		"*.example.com":                       `did you mean "https://*.example.com"?`,
		"https://app.example/":                `did you mean "https://app.example"?`,
		"wss://app.example":                   `did you mean "https://app.example"?`,
		"ws://localhost:3000":                 `did you mean "http://localhost:3000"?`,
		"Null":                                `did you mean "null"?`,
		"https://app.example/page":            "an origin ends after its host and port",
		"https://app.example?x":               "an origin ends after its host and port",
		"https://app.example#x":               "an origin ends after its host and port",
		"https://user@app.example":            "an origin ends after its host and port",
		"https://app.example.":                "its host ends in a dot",
		"https://app.*.example":               "only a whole label at the beginning can be a *",
		"https://*app.example":                "only a whole label at the beginning can be a *",
		"https://*":                           "only a whole label at the beginning can be a *",
		"https://*.":                          "it has no host",
		"https://":                            "it has no host",
		"https://app..example":                "its host is not a host name",
		"https://app.example:":                "its port is missing",
		"https://app.example:0":               "its port is not between 1 and 65535",
		"https://app.example:99999":           "its port is not between 1 and 65535",
		"https://a.example,https://b.example": "",
		"mailto:someone":                      "it is no origin",
		"{env.TEST_ORIGIN}":                   `origins "{env.TEST_ORIGIN}": it is no origin; did you mean "https://app.example"?`,
		"{env.TEST_UNSET}":                    "placeholders must be known when the configuration is loaded",
	} {
		_, err := newOrigins([]string{word})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "origins ") {
			t.Errorf("%q: %v, want %q in it", word, err, want)
		}
	}
}
