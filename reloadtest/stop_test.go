//go:build unix

package reloadtest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// checkSentAway checks that each tunnel has ended with a Close frame 1001 for both
// its peers.
func checkSentAway(t testing.TB, relay *relay, peers []*peer) {
	t.Helper()
	for i, p := range peers {
		atClient, ok1 := p.awaitEnd(patience)
		atRelay, ok2 := relay.await(p.id).awaitEnd(patience)
		if !ok1 || !ok2 || atClient.code != wstest.GoingAway || atClient.err != nil || atRelay.code != wstest.GoingAway || atRelay.err != nil {
			t.Errorf("tunnel %d of %d: client %v, relay %v", i, len(peers), atClient, atRelay)
		}
	}
}

// checkStopped checks that the process ends in order, and in time after begun.
func checkStopped(t testing.TB, p *proxy, begun time.Time, window time.Duration) {
	t.Helper()
	code := p.awaitExit(window + linger + patience)
	took := p.ended.Sub(begun)
	t.Logf("exit code %d after %v", code, took)
	// The promise is a limit on time, so it is checked as one.
	if code != 0 || took > window+linger {
		t.Errorf("exit code %d after %v, want 0 after %v at the most", code, took, window+linger)
	}
}

// tryLoad has a configuration loaded that may be rejected, or find the process gone.
func (p *proxy) tryLoad(config string) error {
	response, err := p.admin.Post("http://localhost/load", "text/caddyfile", strings.NewReader(config))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// notProvisioned and notStarted are sites of configurations that are rejected, early
// and late.
const (
	notProvisioned = "http://127.0.0.1:1 {\nwatchrtc_proxy wss://relay.example {\ntransport http {\ntls_trust_pool file /nowhere\n}\n}\n}"
	notStarted     = "http://192.0.2.1:1 {\nbind 192.0.2.1\nrespond never\n}"
)

// TestLoadWhileStopping loads configurations around the moment in which the process
// is told to stop. Its tunnels are drained as if nobody had.
func TestLoadWhileStopping(t *testing.T) {
	t.Parallel()
	const window = 3 * time.Second
	for name, test := range map[string]struct {
		first   bool // the load, not the signal
		sites   string
		version int // changes the configuration
	}{
		"the same":             {},
		"another":              {version: 1},
		"rejected":             {sites: notProvisioned},
		"rejected late":        {sites: notStarted},
		"another, before":      {first: true, version: 1},
		"rejected late before": {first: true, sites: notStarted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			peers := open(t, cfg.addr, 30, "")
			sendAll(t, peers)
			cfg.version, cfg.sites = test.version, test.sites
			loaded := make(chan error, 1)
			load := func() { loaded <- p.tryLoad(cfg.String()) }
			if test.first {
				go load()
			}
			begun := time.Now()
			p.signal(syscall.SIGTERM)
			if !test.first {
				p.awaitLogs(`"tunnel closed"`, 5)
				go load()
			}
			checkSentAway(t, relay, peers)
			checkStopped(t, p, begun, window)
			t.Logf("the load: %v", <-loaded)
		})
	}
}

// TestStopWhileDroppedUpstreamDrains: the stop waits for what was dropped before, too.
func TestStopWhileDroppedUpstreamDrains(t *testing.T) {
	t.Parallel()
	const window = 8 * time.Second
	dir, relay, other := writeCertificates(t), startRelay(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	dropped := open(t, cfg.addr, 30, "")
	sendAll(t, dropped)
	cfg.upstream, cfg.window = other.addr, 100*time.Millisecond
	begun := time.Now()
	p.load(cfg.String())
	kept := open(t, cfg.addr, 10, "")
	sendAll(t, kept)
	p.signal(syscall.SIGTERM)
	checkSentAway(t, relay, dropped)
	checkSentAway(t, other, kept)
	checkStopped(t, p, begun, window)
}

// TestStopWithSeveralWindows: of the windows for one upstream the longest counts,
// whichever handler is cleaned up first.
func TestStopWithSeveralWindows(t *testing.T) {
	t.Parallel()
	const short, long = 500 * time.Millisecond, 4 * time.Second
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: long}
	for i := range 20 {
		cfg.site += fmt.Sprintf("watchrtc_proxy /other%d wss://%s {\ndrain_window %s\n}\n", i, relay.addr, short)
	}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	peers := open(t, cfg.addr, 20, "")
	sendAll(t, peers)
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	checkSentAway(t, relay, peers)
	last, _ := peers[len(peers)-1].awaitEnd(patience)
	if took := last.at.Sub(begun); took < long/2 {
		t.Errorf("all tunnels are closed after %v", took)
	}
	checkStopped(t, p, begun, long)
}

// TestRejectedReloadsDoNotPostponeDrain: nobody knows before the end of loading
// whether a configuration will run, so what it names is not in use before that.
func TestRejectedReloadsDoNotPostponeDrain(t *testing.T) {
	t.Parallel()
	const window = 2 * time.Second
	for name, sites := range map[string]string{"early": notProvisioned, "late": notStarted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay, other := writeCertificates(t), startRelay(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			peers := open(t, cfg.addr, 30, "")
			sendAll(t, peers)
			rejected := cfg
			rejected.sites = sites
			cfg.upstream = other.addr
			begun := time.Now()
			p.load(cfg.String())
			quit, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				ticker := time.NewTicker(100 * time.Millisecond)
				defer ticker.Stop()
				for {
					if p.tryLoad(rejected.String()) == nil {
						t.Error("the configuration is not rejected")
					}
					select {
					case <-quit:
						return
					case <-ticker.C:
					}
				}
			}()
			p.awaitLogs(`"tunnel closed"`, len(peers))
			if took := time.Since(begun); took > window+linger {
				t.Errorf("the drain took %v", took)
			}
			close(quit)
			<-done
			checkSentAway(t, relay, peers)

			// One that runs ends a drain, as it should.
			cfg.upstream, cfg.window = relay.addr, time.Hour
			p.load(cfg.String())
			kept := open(t, cfg.addr, 10, "")
			cfg.upstream = other.addr
			p.load(cfg.String())
			cfg.upstream = relay.addr
			p.load(cfg.String())
			sendAll(t, append(kept, open(t, cfg.addr, 10, "")...))
		})
	}
}

// TestStopUnderWay: requests that never end do not hold up the stop.
func TestStopUnderWay(t *testing.T) {
	t.Parallel()
	const window = time.Second
	for name, begin := range map[string]func(t *testing.T, addr string){
		"slow body":          func(t *testing.T, addr string) { postSlowly(t, addr, "/websocket/trace", 1<<20) },
		"slow body, refused": func(t *testing.T, addr string) { postSlowly(t, addr, "/websocket/trace?pour=1", 100_000) },
		"unread response": func(t *testing.T, addr string) {
			conn := dialHTTP1(t, addr)
			fmt.Fprint(conn, "GET /websocket/trace?pour=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
			readByte(t, conn)
		},
		"unread response over HTTP2": func(t *testing.T, addr string) {
			c := dialHTTP2(t, addr)
			s := c.get(t, "/websocket/trace?pour=1")
			if status := <-s.status; status != "200" {
				t.Fatal(status)
			}
			c.stopReading(t)
		},
		"HTTP2 without a preface": func(t *testing.T, addr string) {
			config := clientTLS()
			config.NextProtos = []string{"h2"}
			conn, err := tls.Dial("tcp", addr, config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		},
		"vanished after HTTP3": func(t *testing.T, addr string) {
			udp, conn := dialHTTP3(t, addr)
			response, err := conn.RoundTrip(postOf(t, strings.NewReader("{}")))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			udp.Close()
		},
		"vanished in HTTP3": func(t *testing.T, addr string) {
			udp, conn := dialHTTP3(t, addr)
			// Nothing tells when a request with an open body has arrived, and a
			// connection that has never carried one is Caddy's affair.
			if _, err := conn.RoundTrip(postOf(t, strings.NewReader("{}"))); err != nil {
				t.Fatal(err)
			}
			body, w := io.Pipe()
			t.Cleanup(func() { w.Close() })
			go conn.RoundTrip(postOf(t, body))
			w.Write([]byte("{"))
			w.Write([]byte("{")) // the first is on its way
			udp.Close()
		},
		"unread response over HTTP3": func(t *testing.T, addr string) {
			_, conn := dialHTTP3(t, addr)
			req := postOf(t, nil)
			req.URL.RawQuery = "pour=1"
			if _, err := conn.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, servers: "protocols h1 h2 h3"}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String(), "GODEBUG=http2xconnect=1")
			begin(t, cfg.addr)
			peers := open(t, cfg.addr, 5, "")
			sendAll(t, peers)
			begun := time.Now()
			p.signal(syscall.SIGTERM)
			checkSentAway(t, relay, peers)
			checkStopped(t, p, begun, window)
		})
	}
}

// TestStopWhenNotConfigured: requests of a configuration that had the proxy do not hold
// up the stop of one that has not.
func TestStopWhenNotConfigured(t *testing.T) {
	t.Parallel()
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, servers: "protocols h1 h2 h3"}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	for _, target := range []string{"/websocket/trace", "/websocket/trace?pour=1"} {
		postSlowly(t, cfg.addr, target, 1<<20)
	}
	_, h3 := dialHTTP3(t, cfg.addr)
	pour := postOf(t, nil)
	pour.URL.RawQuery = "pour=1"
	if _, err := h3.RoundTrip(pour); err != nil {
		t.Fatal(err)
	}
	p.load("{\nadmin {$ADMIN}\nauto_https off\n}\nhttp://127.0.0.1:0 {\nrespond other\n}")
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	checkStopped(t, p, begun, cfg.window)
}

func dialHTTP1(t testing.TB, addr string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, clientTLS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// postSlowly begins a request whose body comes at ten bytes a second until the test
// ends.
func postSlowly(t testing.TB, addr, target string, length int) {
	t.Helper()
	conn := dialHTTP1(t, addr)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n{", target, length)
	quit := make(chan struct{})
	t.Cleanup(func() { close(quit) })
	go func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if _, err := conn.Write([]byte(" ")); err != nil {
					return
				}
			case <-quit:
				return
			}
		}
	}()
}

func readByte(t testing.TB, r io.Reader) {
	t.Helper()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func postOf(t testing.TB, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "https://localhost/websocket/trace", body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestGracePeriod: when Caddy's grace period is shorter than the window, it closes
// HTTP/3 connections in the middle of the drain, and after a reload. The tunnels on
// them get their Close frames before that.
func TestGracePeriod(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Second
	for name, begin := range map[string]func(*proxy, config){
		"stop":   func(p *proxy, _ config) { p.signal(syscall.SIGTERM) },
		"reload": func(p *proxy, c config) { c.version++; p.load(c.String()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: 10 * time.Second, servers: "protocols h1 h2 h3"}
			cfg.global = "grace_period " + grace.String()
			p := startProxy(t, dir, "a", cfg.addr, cfg.String(), "GODEBUG=http2xconnect=1")
			var peers, others []*peer
			for range 4 {
				_, h3 := dialHTTP3(t, cfg.addr)
				h2 := dialHTTP2(t, cfg.addr)
				for range 5 {
					peers = append(peers, openHTTP3(t, h3, ""))
					others = append(others, h2.open(t, ""))
				}
			}
			sendAll(t, append(peers, others...))
			begin(p, cfg)
			checkSentAway(t, relay, peers)
			if name == "stop" {
				checkSentAway(t, relay, others)
				return
			}
			sendAll(t, others) // nothing ends these
		})
	}
}

// TestGracePeriodLateHandshake: a tunnel over HTTP/3 that opens when those of its old
// server are drained already gets its Close frames, too.
func TestGracePeriodLateHandshake(t *testing.T) {
	t.Parallel()
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: 10 * time.Second, servers: "protocols h1 h2 h3"}
	cfg.global = "grace_period 3s"
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	_, h3 := dialHTTP3(t, cfg.addr)
	drained := openHTTP3(t, h3, "")
	go func() {
		resume := <-relay.held
		defer close(resume)
		cfg.version++
		p.load(cfg.String())
		drained.awaitEnd(patience)
	}()
	late := openHTTP3(t, h3, "&held=1")
	checkSentAway(t, relay, []*peer{drained, late})
}

// get asks for something on a new stream.
func (c *http2Conn) get(t testing.TB, target string) *http2Stream {
	t.Helper()
	return c.send(t, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", target}}, true)
}
