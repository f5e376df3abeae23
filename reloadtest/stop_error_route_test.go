//go:build unix

package reloadtest

import (
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStopInErrorRoute stops the process while an error route waits for a backend that says
// nothing, and nobody reads what its client sends over HTTP/1.1: what is left of a body that
// is not wanted, or the next request. Caddy waits for the route, which ends with the client's
// connection all the same.
func TestStopInErrorRoute(t *testing.T) {
	t.Parallel()
	const (
		window  = 100 * time.Millisecond
		refused = "POST /websocket/trace HTTP/1.1\r\nHost: localhost\r\nOrigin: https://other.example\r\n"
		broken  = "POST /websocket/trace HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n"
		upload  = "Content-Length: 16777216\r\n\r\n"
		noIdle  = "timeouts {\nread_body_idle -1s\nwrite_idle -1s\n}"
	)
	for name, test := range map[string]struct {
		request string
		more    int64  // bytes that come after it
		next    string // comes when the error route waits
		servers string
	}{
		"upload refused":                     {request: refused + upload, more: 15 << 20},
		"upload broken off":                  {request: broken + upload, more: 15 << 20},
		"upload refused, no idle timeout":    {request: refused + upload, more: 15 << 20, servers: noIdle},
		"upload broken off, no idle timeout": {request: broken + upload, more: 15 << 20, servers: noIdle},
		"refused, next request":              {request: refused + "Content-Length: 0\r\n\r\n", next: "GET"},
		"broken off, next request":           {request: broken + "Content-Length: 2\r\n\r\n{}", next: "GET"},
		"broken off, next, chunked":          {request: broken + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", next: "GET"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay := wstest.NewRelay(t, testCA.Issue("127.0.0.1").ServerConfig(), func(c *wstest.Conn) {
				if _, err := c.R.Peek(1); err == nil {
					io.CopyN(io.Discard, c.R, test.more/16) // so that somebody has read of it
					c.Reset()
				}
			})
			asked := make(chan struct{})
			silent := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
				c.SetDeadline(time.Time{})
				if _, err := http.ReadRequest(c.R); err == nil {
					close(asked)
					io.Copy(io.Discard, c.R)
				}
			})
			dir := writeCertificates(t)
			cfg := config{
				dir: dir, addr: reserve(t), upstream: relay.Addr, window: window, options: "origins https://app.example",
				servers: test.servers,
				site:    "handle_errors {\nreverse_proxy " + silent.Addr + " {\nmethod GET\n}\n}",
			}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			conn := dialHTTP1(t, cfg.addr)
			io.WriteString(conn, test.request)
			if test.more > 0 {
				go io.CopyN(conn, zeros{}, test.more) // there is always something to read
			}
			<-asked
			if test.next != "" {
				io.WriteString(conn, test.next)
				time.Sleep(200 * time.Millisecond) // until net/http has read the first of it
			}
			begun := time.Now()
			p.signal(syscall.SIGTERM)
			checkStopped(t, p, begun, window)
		})
	}
}
