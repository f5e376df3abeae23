//go:build linux

package reloadtest

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRestart replaces a process by a new one, on one host and without a load
// balancer, as docs/reloads.md describes it: the new one starts beside the old one,
// which is then stopped. No connection is refused, and each client that was sent
// away is back on its first retry.
func TestRestart(t *testing.T) {
	for name, inherited := range map[string]bool{
		"shared port":   false, // each process has a listener of its own (SO_REUSEPORT)
		"shared socket": true,  // both have the same, as systemd hands it out
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const window = 3 * time.Second
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, servers: "protocols h1 h2"}
			var files []*os.File
			if inherited {
				cfg.addr, files = listen(t)
				cfg.bind = "fd/3"
			}
			old := startProxyWith(t, files, dir, "a", cfg.addr, cfg.String())

			visitors := startVisitors(t, cfg.addr)
			var clients []*client
			for range sized(600) {
				// A few at a time: what comes at once is their return.
				if n := len(clients); n >= 8 {
					<-clients[n-8].opened
				}
				clients = append(clients, startClient(t, cfg.addr))
			}
			for _, c := range clients {
				<-c.opened
			}

			next := startProxyWith(t, files, dir, "b", cfg.addr, cfg.String())
			old.signal(syscall.SIGTERM)
			if code := old.awaitExit(window + linger + patience); code != 0 {
				t.Errorf("exit code %d", code)
			}
			// Those that were with the old process had to come back; the others, which
			// came first or had not come yet, have stayed.
			returned := 0
			for _, c := range clients {
				if c.stop(); c.returned {
					returned++
				}
				if c.err != nil {
					t.Errorf("a client was not back on its first retry: %v", c.err)
				}
			}
			visitors.stop()
			cfg.version++
			next.load(cfg.String()) // which can be reloaded like any other
			sendAll(t, open(t, cfg.addr, 1, ""))
			t.Logf("%d of %d clients returned; of %d visitors meanwhile %d were refused, %d turned away, %d dropped",
				returned, len(clients), visitors.served.Load(), visitors.refused.Load(), visitors.turnedAway.Load(), visitors.dropped.Load())
			if returned == 0 || visitors.served.Load() == 0 {
				t.Error("nothing was tried")
			}
			if n := visitors.refused.Load(); n != 0 {
				t.Errorf("%d connections were refused", n)
			}
		})
	}
}

// listen returns a socket that listens, and its address.
func listen(t *testing.T) (string, []*os.File) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return ln.Addr().String(), []*os.File{file}
}

// client is connected all the time, as the SDK is: when it is sent away it waits
// and comes back.
type client struct {
	opened   chan struct{}
	quit     chan struct{}
	done     chan struct{}
	returned bool
	err      error
}

func startClient(t *testing.T, addr string) *client {
	c := &client{opened: make(chan struct{}), quit: make(chan struct{}), done: make(chan struct{})}
	go c.run(addr)
	t.Cleanup(c.stop)
	return c
}

// retryAfter is how long a client waits before its first retry: 1-4 s for the SDK,
// here a tenth of that.
func retryAfter() time.Duration {
	return 100*time.Millisecond + time.Duration(rand.Int64N(int64(300*time.Millisecond)))
}

func (c *client) run(addr string) {
	defer close(c.done)
	var current *peer
	var wait <-chan time.Time
	for first := true; ; first = false {
		if !first {
			<-wait
		}
		// One attempt: a retry that fails is what must not be.
		current, c.err = dialOnce(addr, "")
		if first {
			close(c.opened)
		} else {
			c.returned = true
		}
		if c.err != nil {
			return
		}
		over := make(chan struct{})
		go func() { defer close(over); current.run(ignore) }()
		select {
		case <-over:
			if e, _ := current.awaitEnd(patience); e.code != wstest.GoingAway || e.err != nil {
				c.err = errors.New("it was not sent away: " + e.String())
				return
			}
			wait = time.After(retryAfter())
		case <-c.quit:
			if c.err = current.send(80, 1); c.err == nil {
				c.err = current.awaitAll(patience)
			}
			current.conn.Close()
			<-over
			return
		}
	}
}

// stop ends the client, which must be connected and carry a message until then.
func (c *client) stop() {
	select {
	case <-c.quit:
	default:
		close(c.quit)
	}
	<-c.done
}

// visitors come anew all the time.
type visitors struct {
	quit   chan struct{}
	coming sync.WaitGroup
	once   sync.Once

	served  atomic.Int64
	refused atomic.Int64 // nobody listened
	// The last that the old process accepted, before they had a response.
	turnedAway atomic.Int64 // 503
	dropped    atomic.Int64 // net/http closed or the kernel reset the connection
}

func startVisitors(t *testing.T, addr string) *visitors {
	v := &visitors{quit: make(chan struct{})}
	for range 2 {
		v.coming.Go(func() {
			ticker := time.NewTicker(5 * time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-v.quit:
					return
				case <-ticker.C:
				}
				p, err := dialOnce(addr, "")
				refusal, ok := errors.AsType[refused](err)
				switch {
				case err == nil:
					v.served.Add(1)
					p.conn.Close()
				case ok && refusal.status == http.StatusServiceUnavailable:
					v.turnedAway.Add(1)
				case errors.Is(err, syscall.ECONNREFUSED):
					v.refused.Add(1)
				case dropped(err):
					v.dropped.Add(1)
				default:
					t.Errorf("a visitor: %v", err)
				}
			}
		})
	}
	t.Cleanup(v.stop)
	return v
}

func (v *visitors) stop() {
	v.once.Do(func() { close(v.quit) })
	v.coming.Wait()
}
