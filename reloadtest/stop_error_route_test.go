//go:build unix

package reloadtest

import (
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStopInErrorRoute stops the process while an error route waits for a backend that says
// nothing, and nobody reads what its client uploads over HTTP/1.1. Caddy waits for the route,
// which ends with the client's connection all the same.
func TestStopInErrorRoute(t *testing.T) {
	t.Parallel()
	const window = 100 * time.Millisecond
	const allowed, other = "https://app.example", "https://other.example"
	for name, test := range map[string]struct{ origin, servers string }{
		"refused":                           {other, ""},
		"broken off":                        {allowed, ""},
		"broken off, without idle timeouts": {allowed, "timeouts {\nread_body_idle -1s\nwrite_idle -1s\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay := wstest.NewRelay(t, testCA.Issue("127.0.0.1").ServerConfig(), func(c *wstest.Conn) {
				if _, err := c.R.Peek(1); err == nil {
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
				dir: dir, addr: reserve(t), upstream: relay.Addr, window: window, options: "origins " + allowed, servers: test.servers,
				site: "handle_errors {\nreverse_proxy " + silent.Addr + " {\nmethod GET\n}\n}",
			}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			conn := dialHTTP1(t, cfg.addr)
			fmt.Fprintf(conn, "POST /websocket/trace HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\nContent-Length: %d\r\n\r\n", test.origin, 16<<20)
			go io.CopyN(conn, zeros{}, 15<<20) // there is always something to read
			<-asked
			begun := time.Now()
			p.signal(syscall.SIGTERM)
			checkStopped(t, p, begun, window)
		})
	}
}
