//go:build unix

package reloadtest

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStopHeldRequests stops the process while a relay keeps requests over HTTP/2
// waiting. All end when the time is up, and the process ends in order.
func TestStopHeldRequests(t *testing.T) {
	t.Parallel()
	const conns, streams = 2, 25
	const window = 100 * time.Millisecond
	var all sync.WaitGroup
	var held sync.WaitGroup
	held.Add(conns * streams)
	relay := wstest.NewRelay(t, testCA.Issue("127.0.0.1").ServerConfig(), func(c *wstest.Conn) {
		if _, err := http.ReadRequest(c.R); err == nil {
			held.Done()
			io.Copy(io.Discard, c.R)
		}
	})
	dir := writeCertificates(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.Addr, window: window, options: "handshake_timeout 2m"}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	var refused atomic.Int32
	for range conns {
		transport := &http.Transport{TLSClientConfig: testCA.ClientConfig("localhost"), ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		for range streams {
			all.Go(func() {
				r, err := http.NewRequest("POST", "https://"+cfg.addr+"/websocket/trace", strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					return
				}
				r.Host = "localhost"
				if response, err := transport.RoundTrip(r); err == nil {
					response.Body.Close()
					refused.Add(1)
				}
			})
		}
	}
	held.Wait()
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	checkStopped(t, p, begun, window)
	all.Wait()
	t.Logf("%d of %d requests have a response", refused.Load(), conns*streams)
	if p.count("panic: ") > 0 {
		t.Error("the process has panicked")
	}
}
