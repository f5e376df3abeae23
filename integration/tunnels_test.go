package integration_test

import (
	"net/http"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	watchrtcproxy "github.com/caddy-watchrtc/watchrtc-proxy"
)

// TestTunnelHoldsNoConfiguration: a tunnel lives on when its configuration is
// replaced, and nothing of that stays in memory for it.
func TestTunnelHoldsNoConfiguration(t *testing.T) {
	for name, plain := range map[string]bool{"TLS": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			relay := newRelay(t, nil)
			s := mount(relay.URL, "")
			s.plain = plain
			p := start(t, s)
			ws := p.webSocket(t, "/websocket?apiKey=k")
			echo(t, ws, []byte("hello"))
			old := runningParts(t)

			s.body += "\nrespond /new 204"
			p.reload(t, s)
			awaitCollected(t, old)
			echo(t, ws, []byte("hello"))
		})
	}
}

// runningParts returns weak pointers to parts of the running configuration, nil
// once they are collected.
func runningParts(t *testing.T) map[string]func() bool {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	httpApp := app.(*caddyhttp.App)
	server := httpApp.Servers["srv0"]
	parts := map[string]func() bool{
		"http app": collected(httpApp),
		"server":   collected(server),
		"handler":  collected(findHandler(server.Routes)),
	}
	if policies := server.TLSConnPolicies; len(policies) > 0 {
		parts["TLS policy"] = collected(policies[0])
		parts["tls.Config"] = collected(policies[0].TLSConfig)
	}
	return parts
}

func collected[T any](p *T) func() bool {
	w := weak.Make(p)
	return func() bool { return w.Value() == nil }
}

// findHandler returns the handler under test, however deep.
func findHandler(routes caddyhttp.RouteList) *watchrtcproxy.Handler {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *watchrtcproxy.Handler:
				return handler
			case *caddyhttp.Subroute:
				if found := findHandler(handler.Routes); found != nil {
					return found
				}
			}
		}
	}
	return nil
}

// awaitCollected collects garbage until the parts are gone. The old server takes up
// to half a second to find that it has nothing left to do.
func awaitCollected(t *testing.T, parts map[string]func() bool) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(patience)
	for name, gone := range parts {
		for runtime.GC(); !gone(); runtime.GC() {
			if time.Now().After(deadline) {
				t.Errorf("the old %s is still in memory", name)
				break
			}
			<-ticker.C
		}
	}
}

// TestTunnelInEventLoop: whoever accepted the connection, on Linux the tunnel is in an
// event loop and has no goroutines of its own.
func TestTunnelInEventLoop(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there are no event loops here")
	}
	for name, test := range map[string]struct {
		server, preamble string
		plain, http1     bool
	}{
		"TLS":                     {},
		"plain":                   {plain: true},
		"plain, HTTP/1.1 alone":   {plain: true, http1: true},
		"PROXY protocol":          {server: proxyProtocol, preamble: from("198.51.100.7")},
		"PROXY protocol, omitted": {server: proxyProtocol},
		"PROXY protocol, plain":   {server: proxyProtocol, preamble: from("198.51.100.7"), plain: true},
	} {
		t.Run(name, func(t *testing.T) {
			relay := newRelay(t, nil)
			s := mount(relay.URL, "")
			s.server, s.plain, s.http1, s.debug = test.server, test.plain, test.http1, true
			p := start(t, s)
			c := p.dial(t, test.preamble)
			c.wantStatus(c.handshake("/websocket"), http.StatusSwitchingProtocols)
			p.logs.await(t, `"tunnel opened"`) // a moment after the response
			if inTunnel(".(*goroutines)") || !inTunnel(".(*loop)") {
				t.Error("the tunnel has goroutines of its own")
			}
			c.close()
			p.closed(t)
		})
	}
}

// TestRegisteredOncePerServer: what is registered with a server is called for each of
// its connections, so many handlers must not register many times.
func TestRegisteredOncePerServer(t *testing.T) {
	var body []string
	for i := range 50 {
		body = append(body, directive("/"+strconv.Itoa(i), "wss://relay.example", ""))
	}
	start(t, site{body: strings.Join(body, "\n")})
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	server := reflect.ValueOf(app.(*caddyhttp.App).Servers["srv0"]).Elem()
	for _, field := range []string{"connContextFuncs", "connStateFuncs", "onShutdownFuncs"} {
		if n := server.FieldByName(field).Len(); n > 1 {
			t.Errorf("%d %s", n, field)
		}
	}
}
