package integration_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

func init() {
	caddy.RegisterModule(lateReads{})
	httpcaddyfile.RegisterHandlerDirective("watchrtc_test_late_reads", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(lateReads), nil
	})
}

// lateReads is a handler whose requests' bodies, after the first piece, are read when the
// connection has been taken over: as a goroutine that the scheduler lets wait reads them.
type lateReads struct{}

func (lateReads) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.watchrtc_test_late_reads", New: func() caddy.Module { return new(lateReads) }}
}

func (*lateReads) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	r.Body = &lateBody{ReadCloser: r.Body}
	return next.ServeHTTP(w, r)
}

type lateBody struct {
	io.ReadCloser
	begun bool
}

func (b *lateBody) Read(p []byte) (int, error) {
	for end := time.Now().Add(patience); b.begun && inStacks(").stopReading(") == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	b.begun = true
	return b.ReadCloser.Read(p)
}

// TestRelayBreaksOffBeforeReader has a relay that breaks off its response just when the
// next piece of an upload is about to be read, and a client that neither sends more nor
// closes: the response is broken off for it all the same, and the request is over.
func TestRelayBreaksOffBeforeReader(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.ReadExactly(1)
		c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut")
		c.CloseWrite()
		c.ReadToEnd()
	}).Addr
	for name, timeouts := range map[string]string{"default": "", "none": "timeouts {\nread_body_idle -1s\nwrite_idle -1s\n}"} {
		t.Run(name, func(t *testing.T) {
			p := start(t, site{server: timeouts, body: "route {\nwatchrtc_test_late_reads\n" + directive("/websocket", "wss://"+addr) + "\n}"})
			c := p.dial(t)
			c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
			c.write("1\r\nx\r\n")
			body, err := io.ReadAll(c.response("POST").Body)
			if string(body) != "cut" || err != io.ErrUnexpectedEOF {
				t.Errorf("the client got %q, then %v", body, err)
			}
		})
	}
}
