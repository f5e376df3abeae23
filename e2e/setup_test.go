package e2e

import (
	"context"
	"embed"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// patience is how long a test waits for what should happen soon.
const patience = 30 * time.Second

// The releases of the SDK under test.
const (
	sdkNew = "1.43.1"
	sdkOld = "1.38.3"
)

// mount is where the proxy is mounted.
const mount = "/websocket"

// setup is what most tests need: a relay, and a proxy in front of it.
type setup struct {
	ca    *pki.CA
	leaf  *pki.Leaf // the proxy's
	relay *relay.Server
	proxy *caddy.Caddy
	addr  string // the proxy's
	pages string // URL of the test page, which is also the rest of the proxy's origin

	transport string // lines of the proxy's transport, besides the relay's CA
}

// newSetup runs a relay and a proxy mounted at /websocket. Each option is a line
// within watchrtc_proxy. The rest of the proxy's origin is the test page with the
// newer SDK.
func newSetup(t *testing.T, relayConfig relay.Config, proxyConfig caddy.Config, options ...string) *setup {
	t.Helper()
	s := &setup{addr: wstest.FreeAddr(t)}
	s.ca = pki.New(t, "e2e")
	s.leaf = s.ca.Issue(t, "proxy.test", "*.site.test", "127.0.0.1", "localhost")
	s.relay = relay.Start(t, s.ca, relayConfig)
	s.pages = servePages(t, sdkNew)
	proxyConfig.Sites = s.site(s.relay.URL(), options...)
	s.proxy = caddy.Start(t, proxyConfig)
	return s
}

// site is the Caddyfile's site with the proxy in front of upstream.
func (s *setup) site(upstream string, options ...string) string {
	return fmt.Sprintf(`
https://:%s {
	bind 127.0.0.1
	tls %s %s
	log
	watchrtc_proxy %s %s {
		transport http {
			tls_trust_pool file %s
			%s
		}
		%s
	}
	reverse_proxy %s
}
`, port(s.addr), s.leaf.CertFile, s.leaf.KeyFile, mount, upstream, s.ca.File, s.transport, strings.Join(options, "\n\t\t"), s.pages)
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// url returns where the proxy is mounted, with this scheme.
func (s *setup) url(scheme string) string { return scheme + "://" + s.addr + mount }

//go:embed page
var pageFiles embed.FS

// servePages serves the page that loads a release of the SDK, on an origin that
// is not the proxy's. It returns its URL.
func servePages(t *testing.T, sdk string) string {
	t.Helper()
	server := httptest.NewServer(pages(sdk))
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
}

// pages serves the test page with a release of the SDK.
func pages(sdk string) http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]string{"/{$}": "index.html", "/page.js": "page.js", "/quality.js": "quality.js"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, pageFiles, "page/"+file)
		})
	}
	mux.HandleFunc("/sdk.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "node_modules/watchrtc-sdk-"+sdk+"/lib/index.js")
	})
	return mux
}

// soon returns a context for what should happen soon.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// conn waits for a WebSocket on which a message comes, the first of those that the relay
// numbers higher than after. The older SDK opens some that it gives up itself.
func (s *setup) conn(t *testing.T, after int64) *devrelay.Conn {
	t.Helper()
	for n := after + 1; ; n++ {
		conn, err := s.relay.WaitConn(soon(t), n)
		if err != nil {
			t.Fatalf("connection %d of the relay: %v", n, err)
		}
		ctx, cancel := context.WithCancel(soon(t))
		go func() {
			select {
			case <-conn.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
		_, err = conn.WaitMessage(ctx, 1)
		cancel()
		if err == nil {
			return conn
		}
	}
}

// request waits for the latest request with this method and path.
func (s *setup) request(t *testing.T, method, path string) devrelay.Request {
	t.Helper()
	seen, err := s.relay.WaitRequest(soon(t), func(r devrelay.Request) bool {
		got, _, _ := strings.Cut(r.URI, "?")
		return r.Method == method && got == path
	})
	if err != nil {
		t.Fatalf("%s %s at the relay: %v", method, path, err)
	}
	return seen
}

// expired returns a context for what must have happened already.
func expired(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// awaitListening waits until a process listens on addr, for those that do not log it.
func awaitListening(t *testing.T, process *program.Process, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(process.Exited(), patience)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("nobody listens on %s: %v", addr, context.Cause(ctx))
		}
	}
}
