//go:build unix

package reloadtest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	lifeFor     = flag.Duration("life.for", 0, "how long TestLife goes on; 0 for one round")
	lifeTunnels = flag.Int("life.tunnels", 60, "how many tunnels each round of TestLife opens at first")
	lifeSeed    = flag.Uint64("life.seed", 0, "what TestLife's decisions come from; 0 for a new one")
)

// TestLife reloads, rejects, drops and stops at random moments while tunnels over
// HTTP/1.1, HTTP/2 and HTTP/3 carry messages. Each tunnel gets its Close frame, and
// each stop is in time. For longer:
//
//	go test ./reloadtest -run TestLife -v -timeout 20m -life.for 10m -life.tunnels 500
func TestLife(t *testing.T) {
	seed := *lifeSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	begun := time.Now()
	for round := uint64(0); round == 0 || time.Since(begun) < *lifeFor && !t.Failed(); round++ {
		t.Run(fmt.Sprintf("-life.seed=%d", seed+round), func(t *testing.T) { newLife(t, seed+round).run() })
	}
}

// life is one process's, from its start to its end.
type life struct {
	testing.TB
	rand   *rand.Rand
	relays [2]*relay
	used   int // which of them the configuration names
	cfg    config
	*proxy
	opened [2][]*peer
}

func newLife(t testing.TB, seed uint64) *life {
	l := &life{TB: t, rand: rand.New(rand.NewPCG(seed, 0)), relays: [2]*relay{startRelay(t), startRelay(t)}}
	dir := writeCertificates(t)
	l.cfg = config{
		dir: dir, addr: reserve(t), upstream: l.relays[0].addr, servers: "protocols h1 h2 h3",
		window: 500*time.Millisecond + time.Duration(l.rand.Int64N(int64(2*time.Second))),
	}
	l.proxy = startProxy(t, dir, "a", l.cfg.addr, l.cfg.String(), "GODEBUG=http2xconnect=1")
	return l
}

func (l *life) run() {
	l.Helper()
	l.open(*lifeTunnels)
	traffic := startTraffic(l.TB, l.opened[0], 2*time.Millisecond)
	for range 2 + l.rand.IntN(5) {
		l.pause(l.cfg.window)
		l.change()
	}
	l.pause(l.cfg.window)
	l.stop()
	traffic.stop()
	for i, peers := range l.opened {
		checkSentAway(l.TB, l.relays[i], peers)
	}
}

// pause lets up to most go by: the moments are what is random here.
func (l *life) pause(most time.Duration) { time.Sleep(time.Duration(l.rand.Int64N(int64(most)))) }

// open opens n tunnels, a third over each version of HTTP.
func (l *life) open(n int) {
	l.Helper()
	const perConn = 10
	peers := open(l.TB, l.cfg.addr, n/3, "")
	for len(peers) < n {
		h2 := dialHTTP2(l.TB, l.cfg.addr)
		_, h3 := dialHTTP3(l.TB, l.cfg.addr)
		for range min(perConn, (n-len(peers)+1)/2) {
			peers = append(peers, h2.open(l.TB, ""), openHTTP3(l.TB, h3, ""))
		}
	}
	sendAll(l.TB, peers)
	l.opened[l.used] = append(l.opened[l.used], peers...)
}

func (l *life) change() {
	l.Helper()
	switch l.rand.IntN(4) {
	case 0:
		l.cfg.version++
		l.load(l.cfg.String())
		l.open(6)
	case 1:
		l.reject(notProvisioned)
	case 2:
		l.reject(notStarted)
	case 3:
		l.used = 1 - l.used
		l.cfg.upstream = l.relays[l.used].addr
		l.load(l.cfg.String())
		l.open(6)
	}
}

// reject loads a configuration that cannot run, and names either upstream.
func (l *life) reject(site string) {
	l.Helper()
	cfg := l.cfg
	cfg.sites = site
	cfg.upstream = l.relays[l.rand.IntN(2)].addr
	if l.tryLoad(cfg.String()) == nil {
		l.Error("the configuration is not rejected")
	}
}

// stop stops the process, and now and then loads something in the same moment.
func (l *life) stop() {
	l.Helper()
	var loading sync.WaitGroup
	if l.rand.IntN(2) == 0 {
		cfg, wait := l.cfg, time.Duration(l.rand.Int64N(int64(30*time.Millisecond)))
		cfg.version++
		cfg.sites = []string{"", notProvisioned, notStarted}[l.rand.IntN(3)]
		loading.Go(func() {
			time.Sleep(wait)
			_ = l.tryLoad(cfg.String()) // the process may be gone, or refuse
		})
		l.pause(30 * time.Millisecond)
	}
	begun := time.Now()
	l.signal(syscall.SIGTERM)
	checkStopped(l.TB, l.proxy, begun, l.cfg.window)
	loading.Wait()
}
