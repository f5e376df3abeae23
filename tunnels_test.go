package watchrtcproxy

import (
	"bytes"
	"context"
	"net"
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
	"github.com/coder/websocket"
)

// TestTunnelHoldsNoConfiguration: a tunnel lives on when its configuration is
// replaced, and nothing of that stays in memory for it.
func TestTunnelHoldsNoConfiguration(t *testing.T) {
	for name, plain := range map[string]bool{"TLS": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			relay := newRelay(t, nil)
			s := mountOn(relay.URL, "")
			s.plain = plain
			p := start(t, s)
			dial := p.webSocket
			if plain {
				dial = p.plainWebSocket
			}
			ws := dial(t, "/websocket?apiKey=k")
			echo(t, ws, []byte("hello"))
			old := runningParts(t)

			_, portText, _ := net.SplitHostPort(p.addr)
			port, _ := strconv.Atoi(portText)
			s.body += "\nrespond /new 204"
			if err := caddy.Load(adapt(t, s.caddyfile(port)), true); err != nil {
				t.Fatal(err)
			}
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
func findHandler(routes caddyhttp.RouteList) *Handler {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *Handler:
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

// TestTunnelInEventLoop: whoever accepted the connection, on Linux an event loop
// carries it, not goroutines of its own.
func TestTunnelInEventLoop(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there are no event loops here")
	}
	for name, test := range map[string]struct {
		server, preamble string
		plain            bool
	}{
		"TLS":                     {},
		"plain":                   {plain: true},
		"PROXY protocol":          {server: proxyProtocol, preamble: from("198.51.100.7")},
		"PROXY protocol, omitted": {server: proxyProtocol},
		"PROXY protocol, plain":   {server: proxyProtocol, preamble: from("198.51.100.7"), plain: true},
	} {
		t.Run(name, func(t *testing.T) {
			relay := newRelay(t, nil)
			s := mountOn(relay.URL, "")
			s.server, s.plain = test.server, test.plain
			p := start(t, s)
			c := p.dial(t, test.preamble)
			c.wantStatus(c.handshake("/websocket"), http.StatusSwitchingProtocols)
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			if bytes.Contains(stacks, []byte("tunnel.(*Tunnel).copyTo")) {
				t.Error("goroutines carry the tunnel")
			}
			c.close()
			p.closed(t)
		})
	}
}

func (p *proxy) plainWebSocket(t *testing.T, target string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(testContext(t), "ws://"+p.addr+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// TestRegisteredOncePerServer: what is registered with a server is called for each of
// its connections, so many handlers must not register many times.
func TestRegisteredOncePerServer(t *testing.T) {
	var body []string
	for i := range 50 {
		body = append(body, directiveFor("/"+strconv.Itoa(i), "wss://relay.example", ""))
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

// TestConnectionsForgotten: what is closed when a stop takes too long is what is open
// then, and no tunnel.
func TestConnectionsForgotten(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mountOn(relay.URL, ""))
	count := func() (n int) {
		stopping.conns.Range(func(any, any) bool { n++; return true })
		return n
	}
	await := func(want int) {
		t.Helper()
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for deadline := time.Now().Add(patience); count() != want; <-ticker.C {
			if time.Now().After(deadline) {
				t.Fatalf("%d connections are remembered, want %d", count(), want)
			}
		}
	}
	await(0)
	h1 := p.dial(t, "")
	h1.ask("POST", "/websocket/trace")
	h2 := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true}}
	for range 3 {
		answer, err := h2.Post(p.url("/websocket/trace"), "text/plain", strings.NewReader("x"))
		if err != nil || answer.ProtoMajor != 2 {
			t.Fatal(answer, err)
		}
		answer.Body.Close()
	}
	await(2)
	ws := p.webSocket(t, "/websocket")
	echo(t, ws, []byte("hello"))
	await(2)
	h1.close()
	await(1)
	h2.CloseIdleConnections()
	await(0)
	echo(t, ws, []byte("hello"))
}

func init() { caddy.RegisterModule(waitForClose{}) }

// waitForClose passes a request on when its client's connection is closed.
type waitForClose struct{}

// waiting is what waitForClose tells and waits for, made anew by each test.
var waiting struct{ reached, closed, returned chan struct{} }

func (waitForClose) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.watchrtc_test_wait_for_close", New: func() caddy.Module { return new(waitForClose) }}
}

func (waitForClose) Provision(ctx caddy.Context) error {
	closed := waiting.closed
	ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server).RegisterConnState(func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	})
	return nil
}

func (waitForClose) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	defer close(waiting.returned)
	close(waiting.reached)
	<-waiting.closed
	return next.ServeHTTP(w, r)
}

// TestConnectionClosedBeforeItsRequest: over HTTP/2 a request may come to the handler
// when its connection is gone, which must not be remembered then.
func TestConnectionClosedBeforeItsRequest(t *testing.T) {
	waiting.reached, waiting.closed, waiting.returned = make(chan struct{}), make(chan struct{}), make(chan struct{})
	relay := newRelay(t, nil)
	// The first handler has registered with the server before the one that waits.
	p := startJSON(t, `{"handler":"watchrtc_proxy","upstreams":["`+relay.URL+`"],"path_prefix":"/elsewhere"},
		{"handler":"watchrtc_test_wait_for_close"},
		{"handler":"watchrtc_proxy","upstreams":["`+relay.URL+`"]}`)
	transport := &http.Transport{TLSClientConfig: clientTLS(), ForceAttemptHTTP2: true}
	var conn net.Conn
	transport.DialContext = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return conn, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		client := &http.Client{Timeout: patience, Transport: transport}
		if response, err := client.Post(p.url("/trace"), "text/plain", strings.NewReader("x")); err == nil {
			t.Error("status", response.Status)
		}
	}()
	<-waiting.reached
	conn.Close()
	<-ended
	<-waiting.returned
	stopping.conns.Range(func(conn, _ any) bool {
		t.Errorf("a closed connection is remembered: %v", conn.(net.Conn).RemoteAddr())
		return true
	})
}
