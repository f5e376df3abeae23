package integration_test

import (
	"io"
	"net/http"
	"runtime"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(onlyReads{})
	httpcaddyfile.RegisterHandlerDirective("watchrtc_test_only_reads", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(onlyReads), nil
	})
}

// onlyReads is the handler that costs the least: it reads the request's body.
type onlyReads struct{}

func (onlyReads) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.watchrtc_test_only_reads", New: func() caddy.Module { return new(onlyReads) }}
}

func (*onlyReads) ServeHTTP(_ http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	var piece [1]byte
	for {
		if _, err := r.Body.Read(piece[:]); err != nil {
			return nil
		}
	}
}

// TestSlowPostIsSmall: a body that has hardly begun holds little more than net/http and
// Caddy take for any request. TLS would have some stacks grow and others not.
func TestSlowPostIsSmall(t *testing.T) {
	least := slowPost(t, "watchrtc_test_only_reads", "(*onlyReads).ServeHTTP(")
	ours := slowPost(t, "watchrtc_proxy /websocket", "http1.ReadBody(")
	t.Logf("%d bytes for each body that has begun, of which any handler takes %d", ours, least)
	if ours > least+4<<10 {
		t.Errorf("%d bytes for each body that has begun, want %d and 4 KiB at the most", ours, least)
	}
}

// slowPost returns what a request takes whose handler waits in a function for its body.
func slowPost(t *testing.T, handler, function string) (size int64) {
	t.Helper()
	const n = 200
	p := start(t, site{plain: true, body: "route /websocket* {\n" + handler + "\n}"})
	defer p.stop(t)
	idle := make([]*conn, n)
	for i := range idle {
		idle[i] = p.dial(t)
		idle[i].request("GET", "/")
		io.Copy(io.Discard, idle[i].response("GET").Body)
	}
	before := memory()
	for _, c := range idle {
		c.request("POST", "/websocket/trace", "Content-Length: 60000")
		c.write("{")
	}
	awaitTrue(t, "begin of all bodies", func() bool { return inStacks(function) >= n })
	size = (memory() - before) / n
	for _, c := range idle {
		c.close()
	}
	return size
}

func memory() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc + stats.StackInuse)
}
