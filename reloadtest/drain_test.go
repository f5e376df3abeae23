//go:build unix

package reloadtest

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// linger is how long a tunnel may live on once it was told to go.
const linger = 5 * time.Second

// window is long enough that a machine with other things to do shifts closes by less
// than two tenths of it.
const window = 10 * time.Second

// fleet is tunnels of each kind that a drain must handle.
type fleet struct {
	*relay
	peers []*peer
	slow  int // the first so many send large messages slowly, both ways
}

// openFleet opens n tunnels; one in twenty is slow.
func openFleet(t testing.TB, addr string, relay *relay, n int) *fleet {
	t.Helper()
	f := &fleet{relay: relay, slow: n / 20}
	// In turn, since tunnels are closed in the order in which they were opened.
	f.peers = open(t, addr, f.slow, "&slow=1")
	f.peers = append(f.peers, open(t, addr, n-f.slow, "")...)
	for _, p := range f.peers[:f.slow] {
		done := make(chan struct{})
		var sending sync.WaitGroup
		sending.Go(func() { slowly(p, done) })
		t.Cleanup(func() { close(done); p.conn.Close(); sending.Wait() })
	}
	return f
}

// checkDrained checks how each leg ended: with a Close frame 1001 between two
// messages, masked at the relay, which its strict reader has seen to, and spread
// evenly over the window from begun on.
func (f *fleet) checkDrained(t testing.TB, begun time.Time, window time.Duration) {
	t.Helper()
	var tenths [10]int
	for _, p := range f.peers {
		leg := f.leg(p.id)
		atClient, ok1 := p.awaitEnd(time.Until(begun.Add(window + linger + patience)))
		atRelay, ok2 := leg.awaitEnd(patience)
		if !ok1 || !ok2 || atClient.code != wstest.GoingAway || atRelay.code != wstest.GoingAway || atClient.err != nil || atRelay.err != nil {
			t.Errorf("tunnel %d: client %v, relay %v", p.id, atClient, atRelay)
			continue
		}
		// Slow tunnels finish their messages first, so the first of the two ends
		// is nearer to when the tunnel was told to go.
		at := min(atClient.at.Sub(begun), atRelay.at.Sub(begun))
		tenths[max(0, min(9, int(at*10/window)))]++
	}
	t.Logf("closes in each tenth of %v: %v", window, tenths)
	checkEven(t, tenths, len(f.peers))
}

// checkEven checks that closes come when they are due: half a tenth of the window early at
// the most, and two tenths late, since a busy machine catches up at once.
func checkEven(t testing.TB, tenths [10]int, total int) {
	t.Helper()
	closed := 0
	for i, n := range tenths {
		closed += n
		if due := total * (i + 1) / 10; closed > due+total/20 || closed < due-total/5 {
			t.Errorf("%d closes within %d tenths of the window, want %d to %d", closed, i+1, max(0, due-total/5), due+total/20)
		}
	}
}

// TestDrain takes the upstream of 1,000 tunnels (a quarter without -full) out of the
// configuration, and stops processes in each way there is. It does so at the same time, once all tunnels are
// open, since opening them leaves a small machine no time for anything else.
func TestDrain(t *testing.T) {
	other := startRelay(t)
	drains := []*struct {
		name    string
		tunnels int
		begin   func(*proxy, config)
		notice  string // of the process, that it has begun
		stops   bool

		proxy *proxy
		cfg   config
		fleet *fleet
		begun time.Time
	}{
		{name: "upstream removed", tunnels: sized(1000), begin: func(p *proxy, c config) {
			c.upstream = other.addr
			p.load(c.String())
			sendAll(p, open(p, c.addr, 1, "")) // new ones go to the new upstream
		}, notice: "servers shutting down"},
		{name: "SIGTERM", tunnels: sized(1000), begin: func(p *proxy, _ config) { p.signal(syscall.SIGTERM) }, notice: "exiting", stops: true},
		{name: "SIGINT", tunnels: 100, begin: func(p *proxy, _ config) { p.signal(os.Interrupt) }, notice: "exiting", stops: true},
		{name: "caddy stop", tunnels: 100, begin: func(p *proxy, _ config) {
			p.run("stop", "--address", "unix/"+p.sock())
		}, notice: "exiting", stops: true},
	}
	for _, d := range drains {
		dir, relay := writeCertificates(t), startRelay(t)
		d.cfg = config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
		d.proxy = startProxy(t, dir, "a", d.cfg.addr, d.cfg.String())
		d.fleet = openFleet(t, d.cfg.addr, relay, d.tunnels)
		sendAll(t, d.fleet.peers[d.fleet.slow:])
	}
	for _, d := range drains {
		startTraffic(t, d.fleet.peers[d.fleet.slow:], 10*time.Millisecond)
		d.proxy.onLog(d.notice, func() { d.begun = time.Now() })
		d.begin(d.proxy, d.cfg)
		d.proxy.awaitLog(d.notice)
	}
	for _, d := range drains {
		t.Run(d.name, func(t *testing.T) {
			d.fleet.checkDrained(t, d.begun, window)
			if !d.stops {
				return
			}
			code := d.proxy.awaitExit(patience)
			took := d.proxy.ended.Sub(d.begun)
			t.Logf("exit code %d after %v", code, took)
			if code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
			// The promise is a limit on time, so it is checked as one.
			if took > window+linger {
				t.Errorf("stopping took %v, want %v at the most", took, window+linger)
			}
		})
	}
}

// TestLateHandshake: net/http closes a connection on which a request arrives after
// its server was told to shut down. What can arrive late is a request that waits
// in another handler, such as one that asks who the user is.
func TestLateHandshake(t *testing.T) {
	t.Parallel()
	dir, relay, other := writeCertificates(t), startRelay(t), startRelay(t)
	asked, respond := make(chan struct{}), make(chan struct{})
	auth := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-respond
	}))
	t.Cleanup(auth.Close)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
	cfg.global = "order watchrtc_proxy after forward_auth"
	cfg.site = "forward_auth " + auth.Listener.Addr().String() + " {\nuri /\n}"
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())

	result := make(chan error, 1)
	go func() {
		_, err := dial(cfg.addr, "")
		result <- err
	}()
	select {
	case <-asked:
	case err := <-result:
		t.Fatalf("nobody was asked: %v", err)
	}
	cfg.upstream = other.addr
	p.load(cfg.String())
	close(respond)

	err := <-result
	var got refused
	if !errors.As(err, &got) || got.status != http.StatusServiceUnavailable {
		t.Fatalf("a handshake to the upstream that drains: %v, want 503", err)
	}
	if after, err := strconv.Atoi(got.retryAfter); err != nil || after < 1 || after > 2*int(window.Seconds()) {
		t.Errorf("Retry-After %q, want a number of seconds up to twice the window's", got.retryAfter)
	}
}

// TestSecondInterrupt: whoever cannot wait for the drain interrupts again.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: time.Hour}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	open(t, cfg.addr, 10, "")
	p.signal(os.Interrupt)
	p.awaitLog("servers shutting down with eternal grace period")
	p.signal(os.Interrupt)
	// An hour of draining was ahead.
	if code := p.awaitExit(patience); code != 2 {
		t.Errorf("exit code %d, want 2, Caddy's for a forced exit", code)
	}
}

// TestAtOnce: a window of 0 closes all at once, each with its Close frame.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(*proxy, config){
		"reload": func(p *proxy, c config) {
			c.upstream = "127.0.0.1:1"
			p.load(c.String())
		},
		"stop": func(p *proxy, _ config) {
			p.signal(syscall.SIGTERM)
			if code := p.awaitExit(patience); code != 0 {
				p.Errorf("exit code %d", code)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: 0}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			peers := open(t, cfg.addr, 200, "")
			sendAll(t, peers)
			remove(p, cfg)
			for _, peer := range peers {
				atClient, ok1 := peer.awaitEnd(patience)
				atRelay, ok2 := relay.leg(peer.id).awaitEnd(patience)
				if !ok1 || !ok2 || atClient.code != wstest.GoingAway || atRelay.code != wstest.GoingAway || atClient.err != nil || atRelay.err != nil {
					t.Errorf("tunnel %d: client %v, relay %v", peer.id, atClient, atRelay)
				}
			}
		})
	}
}

// TestStalled: clients that have stopped reading hold up neither the drain of the
// others nor the stop.
func TestStalled(t *testing.T) {
	t.Parallel()
	const window = time.Second
	for name, remove := range map[string]func(*proxy, config){
		"reload": func(p *proxy, c config) {
			c.upstream = "127.0.0.1:1"
			p.load(c.String())
		},
		"stop": func(p *proxy, _ config) { p.signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			before := open(t, cfg.addr, 10, "")
			sendAll(t, before)
			var stalled []*peer
			for range 10 {
				peer, err := dial(cfg.addr, "&flood=1")
				if err != nil {
					t.Fatal(err)
				}
				defer peer.conn.Close()
				stalled = append(stalled, peer)
			}
			after := open(t, cfg.addr, 10, "")
			sendAll(t, after)
			for _, peer := range stalled {
				awaitStall(t, relay.leg(peer.id))
			}

			begun := time.Now()
			remove(p, cfg)
			for _, peer := range append(before, after...) {
				e, ok := peer.awaitEnd(patience)
				if !ok || e.code != wstest.GoingAway || e.err != nil {
					t.Errorf("tunnel %d beside the stalled ones: %v", peer.id, e)
				}
				// They share the window with the stalled ones, whose own end comes
				// linger later.
				if took := e.at.Sub(begun); took > window+linger/2 {
					t.Errorf("tunnel %d was closed after %v", peer.id, took)
				}
			}
			for _, peer := range stalled {
				if e, ok := relay.leg(peer.id).awaitEnd(patience); !ok || e.code != wstest.GoingAway {
					t.Errorf("the relay's leg of stalled tunnel %d: %v", peer.id, e)
				}
			}
			if name == "stop" {
				if code := p.awaitExit(patience); code != 0 {
					t.Errorf("exit code %d", code)
				}
				if took := time.Since(begun); took > window+linger {
					t.Errorf("stopping took %v, want %v at the most", took, window+linger)
				}
				return
			}
			p.awaitLogs("tunnel closed", 30)
		})
	}
}

// awaitStall returns when the relay cannot send any more: what it sent fills the
// buffers of both connections and the proxy between them.
func awaitStall(t testing.TB, leg *peer) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for locked := 0; locked < 3; {
		<-ticker.C
		// Between two messages it is unlocked.
		if leg.writing.TryLock() {
			leg.writing.Unlock()
			locked = 0
			continue
		}
		locked++
	}
}

// TestStopHandshake: a handshake that the relay has not responded to is refused when the
// process stops, so that the client goes elsewhere, and holds nothing up.
func TestStopHandshake(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	dir := writeCertificates(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: silent.Addr().String(), window: 0, options: "handshake_timeout 1h"}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	result := make(chan error)
	go func() {
		_, err := dial(cfg.addr, "")
		result <- err
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	begun := time.Now()
	p.signal(syscall.SIGTERM)
	code := p.awaitExit(patience)
	if took := time.Since(begun); code != 0 || took > linger {
		t.Errorf("exit code %d after %v, want 0 after %v at the most", code, took, linger)
	}
	err = <-result
	if got, ok := errors.AsType[refused](err); !ok || got.status != http.StatusServiceUnavailable || got.retryAfter == "" {
		t.Errorf("the handshake in flight: %v, want 503", err)
	}
}
