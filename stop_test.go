package watchrtcproxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestConnectionsForgotten: what is closed when a stop takes too long is what is open
// then, and no tunnel.
func TestConnectionsForgotten(t *testing.T) {
	addr := start(t, handlerFor(t))
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
	h1 := dial(t, addr)
	if err := h1.WriteRequest("POST", "/trace", "Content-Length: 0"); err != nil {
		t.Fatal(err)
	}
	if response, err := h1.ReadResponse("POST"); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	h2 := http2Client()
	for range 3 {
		response, err := h2.Post("https://"+addr+"/trace", "text/plain", strings.NewReader("x"))
		if err != nil || response.ProtoMajor != 2 {
			t.Fatal(response, err)
		}
		response.Body.Close()
	}
	await(2)
	ws := dial(t, addr)
	if _, err := ws.Handshake("/"); err != nil {
		t.Fatal(err)
	}
	echo(t, ws, ws.R, "hello")
	await(2)
	h1.Drop()
	await(1)
	h2.CloseIdleConnections()
	await(0)
	echo(t, ws, ws.R, "hello")
}

// dial connects to the proxy at addr, to speak HTTP/1.1.
func dial(t *testing.T, addr string) *wstest.Conn {
	t.Helper()
	c, err := wstest.Dialer{TLS: authority.ClientConfig("localhost", "http/1.1")}.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Drop() })
	return c
}

func http2Client() *http.Client {
	transport := &http.Transport{TLSClientConfig: authority.ClientConfig("localhost"), ForceAttemptHTTP2: true}
	return &http.Client{Timeout: patience, Transport: transport}
}

// echo writes text and wants it back.
func echo(t *testing.T, w io.Writer, r io.Reader, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(r, back); err != nil || string(back) != text {
		t.Fatalf("%q came back as %q (%v)", text, back, err)
	}
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
	// The first handler has registered with the server before the one that waits.
	addr := start(t, elsewhere(handlerFor(t))+`, {"handler": "watchrtc_test_wait_for_close"}, `+handlerFor(t))
	client := http2Client()
	var conn net.Conn
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return conn, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if response, err := client.Post("https://"+addr+"/trace", "text/plain", strings.NewReader("x")); err == nil {
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

// elsewhere returns a handler as one for a mount that no test uses.
func elsewhere(handler string) string {
	return strings.TrimSuffix(handler, "}") + `, "path_prefix": "/elsewhere"}`
}
