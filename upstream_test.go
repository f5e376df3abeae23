package watchrtcproxy

import (
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

func TestParseUpstream(t *testing.T) {
	for _, test := range []struct {
		in, want string
	}{
		{"production", "wss://watchrtc.testrtc.com"},
		{"staging", "wss://watchrtc-staging2.testrtc.com"},
		{"wss://relay.example", "wss://relay.example"},
		{"https://relay.example", "wss://relay.example"},
		{"ws://relay.example", "ws://relay.example"},
		{"http://relay.example", "ws://relay.example"},
		{"WSS://Relay.Example", "wss://relay.example"},
		{"wss://relay.example:443", "wss://relay.example"},
		{"wss://relay.example:", "wss://relay.example"},
		{"ws://relay.example:80/", "ws://relay.example"},
		{"ws://relay.example:443", "ws://relay.example:443"},
		{"wss://relay.example:8443/", "wss://relay.example:8443"},
		{"wss://relay.example/base", "wss://relay.example/base"},
		{"wss://relay.example/base//", "wss://relay.example/base"},
		{"wss://relay.example/a%2Fb", "wss://relay.example/a%2Fb"},
		{"wss://B\u00fccher.example:443", "wss://xn--bcher-kva.example"},
		{"wss://192.0.2.7:8443", "wss://192.0.2.7:8443"},
		{"wss://[2001:DB8::1]", "wss://[2001:db8::1]"},
		{"wss://[2001:db8::1]:443", "wss://[2001:db8::1]"},
		{"wss://[2001:db8::1]:8443/base", "wss://[2001:db8::1]:8443/base"},
	} {
		up, err := parseUpstream(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		if got := up.name; got != test.want {
			t.Errorf("%s: got %s, want %s", test.in, got, test.want)
		}
	}
}

func TestParseUpstreamErrors(t *testing.T) {
	for _, test := range []struct {
		in, why string
	}{
		{"", "neither a preset nor a URL; want"},
		{"relay", "neither a preset nor a URL; want"},
		{"Production", `neither a preset nor a URL; did you mean "production"? want`},
		{"prod", `did you mean "production"? want`},
		{"stageing", `did you mean "staging"? want`},
		{"satging", `did you mean "staging"? want`},
		{"relay.example", `neither a preset nor a URL; did you mean "wss://relay.example"? want`},
		{"relay.example:443", `no scheme that is accepted; did you mean "wss://relay.example:443"? want`},
		{"localhost:8443/base", `did you mean "wss://localhost:8443/base"? want`},
		{"//relay.example", `did you mean "wss://relay.example"? want`},
		{"ftp://relay.example", "no scheme that is accepted; want"},
		{"wsss://relay.example", `no scheme that is accepted; did you mean "wss://relay.example"? want`},
		{"htps://relay.example", `did you mean "https://relay.example"? want`},
		{"wss:relay.example", "no host"},
		{"wss://", "no host"},
		{"wss://:443", "no host"},
		{"wss://relay example", "not a URL"},
		{"wss://relay.example:port", "not a URL"},
		{"wss://relay.example:0", "port"},
		{"wss://relay.example:65536", "port"},
		{"wss://a,b", "host name"},
		{"wss://[fe80::1%25lo]", "host name"},
		{"wss://::", "host name"},
		{"wss://:::1", "host name"},
		{"wss://fe80::1:443", "host name"},
		{"wss://relay.example/a b", "escaped"},
		{"wss://relay.example/a%2Fb/c d", "escaped"},
		{"wss://user@relay.example", "user name"},
		{"wss://relay.example?", "query"},
		{"wss://relay.example?x=y", "query"},
		{"wss://relay.example#x", "fragment"},
	} {
		_, err := parseUpstream(test.in)
		if err == nil {
			t.Errorf("%q is accepted", test.in)
			continue
		}
		if !strings.Contains(err.Error(), test.why) || !strings.Contains(err.Error(), "want production, staging, or a URL") {
			t.Errorf("%q: %v; want %q and what is accepted", test.in, err, test.why)
		}
	}
}

// TestUpstreamErrorSecrets shows that errors, which end up in logs, repeat
// neither user names and passwords nor the query.
func TestUpstreamErrorSecrets(t *testing.T) {
	for _, upstreams := range [][]string{
		{"wss://user:s3cret@relay.example"},
		{"wss://user:s3cret@relay.example:99999"},
		{"wss://user:s3cret%zz@relay.example"},
		{"wss://user:s3?cret@relay.example"},
		{"wss://relay.example/?apiKey=s3cret"},
		{"relay.example?apiKey=s3cret"},
		{"production", "wss://user:s3cret@relay.example"},
	} {
		_, err := resolveUpstream(upstreams)
		if err == nil || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: %v", upstreams, err)
		}
	}
}

func TestResolveUpstream(t *testing.T) {
	t.Setenv("WATCHRTC_TEST_RELAY", "relay.example")
	t.Setenv("WATCHRTC_TEST_BAD", "ftp://relay.example")
	up, err := resolveUpstream([]string{"wss://{env.WATCHRTC_TEST_RELAY}:8443/base"})
	if err != nil || up.name != "wss://relay.example:8443/base" {
		t.Errorf("got %v, %v", up, err)
	}
	for placeholder, want := range map[string]string{
		"{env.WATCHRTC_TEST_BAD}": `upstream "{env.WATCHRTC_TEST_BAD}": upstream "ftp://relay.example"`,
		"{env.WATCHRTC_TEST_NOT}": `{env.WATCHRTC_TEST_NOT}`,
		"wss://{http.host}":       "placeholders must be known when the configuration is loaded",
	} {
		if _, err := resolveUpstream([]string{placeholder}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", placeholder, err, want)
		}
	}
}

func FuzzParseUpstream(f *testing.F) {
	for _, seed := range []string{
		"production", "staging", "wss://relay.example:8443/base", "https://[::1]:443/a%2Fb/",
		"ws://relay.example//", "wss://user@relay.example", "wss://[fe80::1%25lo]:1/", "http://h/..;/%25",
		"wss://relay.example:080", "wss://é.example/é", "wss://h/a b", "wss:opaque",
		"ws://::",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		up, err := parseUpstream(s)
		if err != nil {
			if !strings.Contains(err.Error(), upstreamForms) {
				t.Errorf("%q: error without what is accepted: %v", s, err)
			}
			return
		}
		canonical := up.name
		again, err := parseUpstream(canonical)
		if err != nil {
			t.Fatalf("%q: canonical form %q: %v", s, canonical, err)
		}
		if *again != *up {
			t.Fatalf("%q: canonical form %q means %+v, want %+v", s, canonical, again, up)
		}
		// What is sent must be the base path, then the request's, byte for byte.
		target := relay.Target{TLS: up.tls, Host: up.host, Base: up.base}
		out := target.URL("/x%2Fy", &url.URL{RawQuery: "a=%20&b"})
		if want := up.base + "/x%2Fy?a=%20&b"; out.RequestURI() != want || out.Host != up.host {
			t.Fatalf("%q: request for %q at %q, want %q at %q", s, out.RequestURI(), out.Host, want, up.host)
		}
	})
}
