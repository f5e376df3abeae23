//go:build unix

package reloadtest

import (
	"bytes"
	"net/http"
	"testing"
	"time"
)

// TestRetained measures what of old configurations stays in memory through the
// tunnels they opened: nothing, which is less than can be measured beside what a
// reload costs anyway.
func TestRetained(t *testing.T) {
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: time.Second}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	reload := func() {
		cfg.version++
		p.load(cfg.String())
	}
	// grown returns by how many bytes the process grows for each of n steps.
	grown := func(n int, step func()) int {
		before := settle(t, p)
		for range n {
			step()
		}
		after := settle(t, p)
		return (after.Heap - before.Heap) / n
	}
	tunnel := func() { sendAll(t, open(t, cfg.addr, 1, "")) }

	grown(10, func() { reload(); tunnel() }) // what is made once
	perReload := grown(50, reload)
	perTunnel := grown(50, tunnel)
	perBoth := []int{}
	for _, n := range []int{1, 10, 100} {
		perBoth = append(perBoth, grown(n, func() { reload(); tunnel() }))
	}
	retained := perBoth[2] - perReload - perTunnel
	t.Logf("bytes per reload %d, per tunnel %d, per tunnel under a configuration of its own (1, 10, 100 of them) %d: retained %d",
		perReload, perTunnel, perBoth, retained)
	// A configuration as small as this one takes 45 KB, which is what the
	// difference is when tls.Conn keeps its tls.Config.
	if retained > 15_000 {
		t.Errorf("%d bytes of each old configuration stay in memory", retained)
	}
}

// settle returns what the process holds once its old servers have ended. They look
// every half second whether they can.
func settle(t testing.TB, p *proxy) usage {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		stacks := p.ask(http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "")
		if !bytes.Contains(stacks, []byte("caddyhttp.(*App).stop")) {
			return p.usage()
		}
		if time.Now().After(deadline) {
			t.Fatalf("old servers live on:\n%s", stacks)
		}
	}
}
