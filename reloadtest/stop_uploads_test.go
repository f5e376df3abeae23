//go:build unix

package reloadtest

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStopUploads stops the process while uploads over HTTP/1.1 are under way, at different
// times between two looks of Caddy's. For each of them net/http waits half a second before
// it closes the connection, and the stop is in time all the same.
func TestStopUploads(t *testing.T) {
	t.Parallel()
	for i := range 6 {
		window := time.Duration(i) * 90 * time.Millisecond
		t.Run(window.String(), func(t *testing.T) {
			t.Parallel()
			p, addr := startForUploads(t, window)
			var uploads []*upload
			for range 20 {
				uploads = append(uploads, startUpload(t, addr, &http.Transport{TLSClientConfig: testCA.ClientConfig("localhost")}))
			}
			stopUploads(t, p, window, uploads)
		})
	}
}

// TestStopUploadsOverHTTP2: who uploads when the time of a stop is up is not to blame for it.
// Some get a response, and that is a 503.
func TestStopUploadsOverHTTP2(t *testing.T) {
	t.Parallel()
	const window = 100 * time.Millisecond
	p, addr := startForUploads(t, window)
	var uploads []*upload
	for range 5 {
		transport := &http.Transport{TLSClientConfig: testCA.ClientConfig("localhost"), ForceAttemptHTTP2: true}
		for range 10 {
			uploads = append(uploads, startUpload(t, addr, transport))
		}
	}
	stopUploads(t, p, window, uploads)
}

func startForUploads(t *testing.T, window time.Duration) (p *proxy, addr string) {
	t.Helper()
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, site: "log"}
	return startProxy(t, dir, "a", cfg.addr, cfg.String()), cfg.addr
}

// upload is one that does not end.
type upload struct {
	taken chan struct{} // closed when something of it has been sent
	end   func()
	done  chan struct{} // closed when there is a response, or none will come
	code  int           // of the response, or 0
}

func startUpload(t *testing.T, addr string, transport *http.Transport) *upload {
	t.Helper()
	t.Cleanup(transport.CloseIdleConnections)
	body, w := io.Pipe()
	r, err := http.NewRequest(http.MethodPost, "https://"+addr+"/websocket/trace", body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "localhost"
	u := &upload{taken: make(chan struct{}), done: make(chan struct{}), end: sync.OnceFunc(func() { w.Close() })}
	t.Cleanup(u.end)
	go func() {
		fmt.Fprint(w, "{")
		fmt.Fprint(w, "{") // the first is on its way
		close(u.taken)
	}()
	go func() {
		defer close(u.done)
		if response, err := transport.RoundTrip(r); err == nil {
			u.code = response.StatusCode
			response.Body.Close()
		}
	}()
	return u
}

// stopUploads stops the process, which ends in time. No client is told that it is to blame.
func stopUploads(t *testing.T, p *proxy, window time.Duration, uploads []*upload) {
	t.Helper()
	for _, u := range uploads {
		<-u.taken
	}
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	checkStopped(t, p, begun, window)
	for _, u := range uploads {
		u.end()
		<-u.done
		if u.code == http.StatusBadRequest {
			t.Errorf("status %d", u.code)
		}
	}
}
