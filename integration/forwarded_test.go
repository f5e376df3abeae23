package integration_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// from is a PROXY protocol header: the tests' way to be any peer.
func from(addr string) string {
	family, to := "TCP4", "192.0.2.200"
	if strings.Contains(addr, ":") {
		family, to = "TCP6", "2001:db8::200"
	}
	return "PROXY " + family + " " + addr + " " + to + " 40000 443\r\n"
}

// proxyProtocol lets clients say who they are with from.
const proxyProtocol = `listener_wrappers {
	proxy_protocol {
		allow 127.0.0.1/32
	}
	tls
}
`

// TestForwarded shows whose X-Forwarded-* and Forwarded are trusted, and what
// becomes of them.
func TestForwarded(t *testing.T) {
	said := []string{
		"X-Forwarded-For: 203.0.113.1, 203.0.113.2:1234",
		"X-Other: between",
		"X-Forwarded-For:   [2001:db8::1]:443,unknown",
		"x-forwarded-for: fe80::1%eth0",
		"X-Forwarded-Proto: http",
		"X-Forwarded-Host: front.example",
		"Forwarded: for=203.0.113.1",
		"X-Real-IP: 203.0.113.1",
	}
	const chain = "203.0.113.1, 203.0.113.2, 2001:db8::1, unknown, fe80::1, "
	for _, test := range []struct {
		name, server, options string
		peer                  string
		trusted               bool
		want                  string // X-Forwarded-For
	}{
		{name: "private peer, nothing set", peer: "10.1.2.3", trusted: true, want: chain + "10.1.2.3"},
		{name: "private IPv6 peer, nothing set", peer: "fd00::7", trusted: true, want: chain + "fd00::7"},
		{name: "loopback peer, nothing set", peer: "127.0.0.1", trusted: true, want: chain + "127.0.0.1"},
		{name: "public peer, nothing set", peer: "198.51.100.7", want: "198.51.100.7"},
		{name: "public IPv6 peer, nothing set", peer: "2001:db8::77", want: "2001:db8::77"},
		{name: "mapped IPv4 peer", peer: "::ffff:198.51.100.7", want: "198.51.100.7"},

		{name: "handler's range", options: "trusted_proxies 198.51.100.0/24", peer: "198.51.100.7", trusted: true, want: chain + "198.51.100.7"},
		{name: "handler's IPv6 range", options: "trusted_proxies 2001:db8::/32", peer: "2001:db8::77", trusted: true, want: chain + "2001:db8::77"},
		{name: "handler's address", options: "trusted_proxies 198.51.100.7", peer: "198.51.100.7", trusted: true, want: chain + "198.51.100.7"},
		{name: "outside the handler's range", options: "trusted_proxies 198.51.100.0/24", peer: "10.1.2.3", want: "10.1.2.3"},
		{name: "handler's private ranges", options: "trusted_proxies 198.51.100.0/24 private_ranges", peer: "10.1.2.3", trusted: true, want: chain + "10.1.2.3"},

		{name: "server's range", server: "trusted_proxies static 198.51.100.0/24", peer: "198.51.100.7", trusted: true, want: chain + "198.51.100.7"},
		{name: "outside the server's range", server: "trusted_proxies static 198.51.100.0/24", peer: "10.1.2.3", want: "10.1.2.3"},
		{name: "handler overrides server", server: "trusted_proxies static 198.51.100.0/24", options: "trusted_proxies 192.0.2.0/24",
			peer: "198.51.100.7", want: "198.51.100.7"},
		{name: "handler overrides server, the other way", server: "trusted_proxies static 198.51.100.0/24", options: "trusted_proxies 192.0.2.0/24",
			peer: "192.0.2.9", trusted: true, want: chain + "192.0.2.9"},

		{name: "masked", options: "mask_client_ip", peer: "10.1.2.3", trusted: true,
			want: "203.0.113.0, 203.0.113.0, 2001:db8::, unknown, fe80::, 10.1.2.0"},
		{name: "masked IPv6 peer", options: "mask_client_ip", peer: "2001:db8:1:2:3:4:5:6", want: "2001:db8:1::"},
		{name: "masked mapped IPv4 peer", options: "mask_client_ip", peer: "::ffff:198.51.100.7", want: "198.51.100.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			relay := newRelay(t, nil)
			s := mount(relay.URL, test.options)
			s.server = proxyProtocol + test.server
			p := start(t, s)
			for _, kind := range kinds {
				c := p.dial(t, from(test.peer))
				c.ask(kind, "/websocket", append(slices.Clone(said), "Host: proxy.example:8443")...)
				seen := relay.next(t)
				c.close()

				masked := strings.Contains(test.options, "mask_client_ip")
				want := map[string]string{
					"X-Forwarded-For":   test.want,
					"X-Forwarded-Proto": "https",
					"X-Forwarded-Host":  "proxy.example:8443",
				}
				if test.trusted {
					want["X-Forwarded-Proto"], want["X-Forwarded-Host"] = "http", "front.example"
					want["Forwarded"] = "for=203.0.113.1"
				}
				if masked {
					delete(want, "Forwarded")
				}
				for _, field := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Real-Ip"} {
					wantLine(t, kind, seen.Header, field, want[field])
				}
			}
		})
	}
}

// TestForwardedAnew is a request that says nothing of where it comes from.
func TestForwardedAnew(t *testing.T) {
	relay := newRelay(t, nil)
	s := mount(relay.URL, "")
	s.server = proxyProtocol
	p := start(t, s)
	for _, kind := range kinds {
		c := p.dial(t, from("198.51.100.7"))
		c.ask(kind, "/websocket", "Host: proxy.example")
		seen := relay.next(t)
		c.close()
		wantLine(t, kind, seen.Header, "X-Forwarded-For", "198.51.100.7")
		wantLine(t, kind, seen.Header, "X-Forwarded-Proto", "https")
		wantLine(t, kind, seen.Header, "X-Forwarded-Host", "proxy.example")
		wantLine(t, kind, seen.Header, "Forwarded", "")
	}
}

// TestForwardedUnixSocket is a front end on the same host: it has no address to
// append.
func TestForwardedUnixSocket(t *testing.T) {
	for _, test := range []struct {
		options, want string
	}{
		{"", "203.0.113.1"},
		{"trusted_proxies 127.0.0.1", ""},
	} {
		dir, err := os.MkdirTemp("", "w") // t.TempDir may be too long for a socket's path
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		relay := newRelay(t, nil)
		s := mount(relay.URL, test.options)
		s.body += "\nbind 127.0.0.1 unix/" + filepath.Join(dir, "s")
		p := start(t, s)
		p.network, p.addr = "unix", filepath.Join(dir, "s")
		for _, kind := range kinds {
			c := p.dial(t)
			c.ask(kind, "/websocket", "X-Forwarded-For: 203.0.113.1")
			seen := relay.next(t)
			c.close()
			wantLine(t, kind, seen.Header, "X-Forwarded-For", test.want)
		}
	}
}

func init() { caddy.RegisterModule(renamePeer{}) }

// renamePeer is a handler that sets the peer's address to something that is none, as
// other people's modules may.
type renamePeer struct{}

func (renamePeer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.watchrtc_test_rename_peer", New: func() caddy.Module { return new(renamePeer) }}
}

func (renamePeer) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.RemoteAddr = "load balancer"
	return next.ServeHTTP(w, r)
}

// TestForwardedUnknownPeer has a peer whose address cannot be read. It is no unix
// socket's, so it is not trusted.
func TestForwardedUnknownPeer(t *testing.T) {
	relay := newRelay(t, nil)
	p := startJSON(t, `{"handler": "watchrtc_test_rename_peer"}, `+handlerJSON(relay.URL))
	for _, kind := range kinds {
		c := p.dial(t)
		c.ask(kind, "/", "X-Forwarded-For: 203.0.113.1", "X-Forwarded-Host: front.example", "Forwarded: for=203.0.113.1")
		header := relay.next(t).Header
		c.close()
		wantLine(t, kind, header, "X-Forwarded-For", "")
		wantLine(t, kind, header, "X-Forwarded-Host", "proxy.example")
		wantLine(t, kind, header, "Forwarded", "")
	}
}

// TestClientIPHeaders has load balancers that name the client in fields of their own:
// where X-Forwarded-For has no address, theirs begins the chain.
func TestClientIPHeaders(t *testing.T) {
	const names = "client_ip_headers X-Edge-Client True-Client-IP X-Forwarded-For\n"
	for _, test := range []struct {
		name, server, options string
		peer                  string
		fields                []string
		want, client          string
	}{
		{name: "the server trusts", server: "trusted_proxies static 198.51.100.0/24", peer: "198.51.100.7",
			fields: []string{"X-Edge-Client: 203.0.113.9"}, want: "203.0.113.9, 198.51.100.7", client: "203.0.113.9"},
		{name: "the server trusts, strictly", server: "trusted_proxies static 198.51.100.0/24\ntrusted_proxies_strict", peer: "198.51.100.7",
			fields: []string{"X-Edge-Client: 1.2.3.4, 203.0.113.9"}, want: "203.0.113.9, 198.51.100.7", client: "203.0.113.9"},
		{name: "the server trusts, no field", server: "trusted_proxies static 198.51.100.0/24", peer: "198.51.100.7",
			want: "198.51.100.7", client: "198.51.100.7"},
		{name: "the server does not trust", server: "trusted_proxies static 198.51.100.0/24", peer: "192.0.2.7",
			fields: []string{"X-Edge-Client: 203.0.113.9"}, want: "192.0.2.7", client: "192.0.2.7"},
		{name: "the handler trusts", options: "trusted_proxies 198.51.100.0/24", peer: "198.51.100.7",
			fields: []string{"True-Client-IP: [2001:db8:1:2::3]:443"}, want: "2001:db8:1:2::3, 198.51.100.7", client: "2001:db8:1:2::3"},
		{name: "the handler trusts, a list", options: "trusted_proxies 198.51.100.0/24", peer: "198.51.100.7",
			fields: []string{"X-Edge-Client: 1.2.3.4, 203.0.113.9, 198.51.100.8"}, want: "203.0.113.9, 198.51.100.7", client: "203.0.113.9"},
		{name: "the handler does not trust", options: "trusted_proxies 198.51.100.0/24", peer: "192.0.2.7",
			fields: []string{"X-Edge-Client: 203.0.113.9"}, want: "192.0.2.7", client: "192.0.2.7"},
		{name: "nothing set", peer: "10.1.2.3",
			fields: []string{"X-Edge-Client: 203.0.113.9"}, want: "203.0.113.9, 10.1.2.3", client: "203.0.113.9"},
		{name: "beside X-Forwarded-For", peer: "10.1.2.3",
			fields: []string{"X-Edge-Client: 203.0.113.9", "X-Forwarded-For: 203.0.113.1"}, want: "203.0.113.1, 10.1.2.3", client: "203.0.113.1"},
		{name: "beside X-Forwarded-For without an address", peer: "10.1.2.3",
			fields: []string{"X-Edge-Client: 203.0.113.9", "X-Forwarded-For: unknown"}, want: "203.0.113.9, 10.1.2.3", client: "203.0.113.9"},
		{name: "masked", options: "mask_client_ip", peer: "10.1.2.3",
			fields: []string{"X-Edge-Client: 203.0.113.9"}, want: "203.0.113.0, 10.1.2.0", client: "203.0.113.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			relay := newRelay(t, nil)
			s := mount(relay.URL, test.options)
			s.server = proxyProtocol + names + test.server
			p := start(t, s)
			for _, kind := range kinds {
				c := p.dial(t, from(test.peer))
				c.ask(kind, "/websocket", test.fields...)
				seen := relay.next(t)
				c.close()
				wantLine(t, kind, seen.Header, "X-Forwarded-For", test.want)
				wantLine(t, kind, seen.Header, "X-Edge-Client", "")
				wantLine(t, kind, seen.Header, "True-Client-Ip", "")
			}
			if got := p.closed(t)["client_ip"]; got != test.client {
				t.Errorf("the log says client_ip %v, want %s", got, test.client)
			}
		})
	}
}
