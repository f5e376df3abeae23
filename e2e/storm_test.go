package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const (
	established = 200 // WebSockets that a storm must not harm
	spare       = 50  // how many more max_tunnels allows
	stormers    = 150 // clients of the storm, each with one connection at a time
	stormTime   = 5 * time.Second

	silent = "/silent" // a relay that accepts connections and says nothing

	// memoryLimit is the proxy's GOMEMLIMIT, and moreData by how much its RLIMIT_DATA is
	// above what it has before the storm: beyond that the system gives it nothing and it
	// dies. Go takes 64 MiB of it at a time.
	memoryLimit = "64MiB"
	moreData    = 192 << 20
)

// TestHandshakeStorm has clients open WebSockets and drop them as fast as they can while
// others echo, on a proxy that has little memory. Those lose nothing; handshakes under
// way stay within max_tunnels, beyond which they are refused; and then the proxy has no
// more goroutines, descriptors and memory than before.
func TestHandshakeStorm(t *testing.T) {
	s := newStormSite(t)
	crowd := s.crowd(steady, s.addr, 200*time.Millisecond)
	for range established / 20 {
		crowd.Open(20)
	}
	if saw := crowd.Summary(); saw.Opened != established {
		t.Fatalf("before the storm: %+v", saw)
	}
	before, heap := s.rest(t), s.heap(t)
	s.limitData(t)
	crowd.Mark()

	saw := s.storm(t)
	t.Logf("handshakes by status, 0 where dropped or without a response: %v; the slowest message took %v; heap %d KiB before",
		saw, crowd.Summary().Worst.Round(time.Millisecond), heap>>10)
	for status := range saw {
		switch status {
		case 0, http.StatusSwitchingProtocols, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		default:
			t.Errorf("a handshake got status %d", status)
		}
	}
	if saw[http.StatusServiceUnavailable] == 0 {
		t.Error("no handshake was refused")
	}
	s.awaitRest(t, before)
	s.awaitHeap(t, heap+4<<20)
	crowd.Open(spare / 2)
	if end := crowd.Close(); end.Closed != established+spare/2 || end.Broken+end.Damaged > 0 {
		t.Errorf("after the storm: %+v", end)
	}
}

// newStormSite returns a proxy with little memory, in front of two relays.
func newStormSite(t *testing.T) *faultSite {
	t.Helper()
	ca := pki.New(t, "storm")
	s := &faultSite{T: t, addr: wstest.FreeAddr(t), ca: ca.File, tls: &tls.Config{RootCAs: ca.Pool}, relayAddr: wstest.FreeAddr(t)}
	s.relayCert = ca.Issue(t, "relay.test", "127.0.0.1")
	s.startRelay()
	leaf := ca.Issue(t, "proxy.test", "127.0.0.1")
	var mounts strings.Builder
	for mount, relay := range map[string]string{steady: s.relayAddr, silent: silentRelay(t)} {
		fmt.Fprintf(&mounts, `
	watchrtc_proxy %s wss://%s {
		max_tunnels %d
		handshake_timeout %s
		transport http {
			tls_trust_pool file %s
			tls_server_name relay.test
		}
	}`, mount, relay, established+spare, handshakeTimeout, ca.File)
	}
	s.proxy = caddy.Start(t, caddy.Config{
		Env:   []string{"GOMEMLIMIT=" + memoryLimit},
		Sites: fmt.Sprintf("https://:%s {\n\tbind 127.0.0.1\n\ttls %s %s%s\n}\n", port(s.addr), leaf.CertFile, leaf.KeyFile, mounts.String()),
	})
	return s
}

// silentRelay accepts connections until t ends, and says nothing.
func silentRelay(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var taken sync.WaitGroup
	t.Cleanup(taken.Wait)
	t.Cleanup(func() { ln.Close() })
	taken.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			taken.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn) // until the proxy gives up
			})
		}
	})
	return ln.Addr().String()
}

// storm returns how many handshakes got which status. Meanwhile it looks at how many the
// proxy has under way.
func (s *faultSite) storm(t *testing.T) (statuses map[int]int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stormTime)
	defer cancel()
	statuses = make(map[int]int)
	var mu sync.Mutex // protects statuses
	var storm sync.WaitGroup
	for i := range stormers {
		storm.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				status := s.openAndDrop(ctx, n)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	most := 0
	for ctx.Err() == nil {
		most = max(most, s.counts(t).sum("handshakes_in_flight"))
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // it tells nobody
		}
	}
	storm.Wait()
	t.Logf("%d handshakes under way at most", most)
	if most > spare {
		t.Errorf("%d handshakes were under way beside %d tunnels, with max_tunnels %d", most, established, established+spare)
	}
	return statuses
}

// openAndDrop makes one handshake, and goes: before there is a response, once there is
// one, or in the midst of TLS. It returns the status of the response, if there was one.
func (s *faultSite) openAndDrop(ctx context.Context, n int) (status int) {
	dialer := wstest.Dialer{TLS: s.tls.Clone()}
	dialer.TLS.ServerName = "127.0.0.1"
	if n%16 == 0 {
		dialer = wstest.Dialer{Preamble: "\x16\x03\x01\x02\x00\x01"} // a ClientHello that has begun
	}
	conn, err := dialer.Dial(ctx, "tcp", s.addr)
	if err != nil {
		return 0
	}
	defer conn.Reset()
	defer context.AfterFunc(ctx, func() { conn.Drop() })()
	target := []string{steady, silent}[n%2]
	switch {
	case dialer.TLS == nil:
		return 0
	case n%4 == 0:
		_ = conn.WriteRequest("GET", target, wstest.HandshakeFields(wstest.NewKey())...) // as far as it comes
		return 0
	}
	if response, _ := conn.Handshake(target); response != nil {
		return response.StatusCode
	}
	return 0
}

// limitData sets RLIMIT_DATA, which counts what a process may write to and no other has.
func (s *faultSite) limitData(t *testing.T) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.proxy.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, data, _ := strings.Cut(string(status), "\nVmData:")
	var kib uint64
	if _, err := fmt.Sscan(data, &kib); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: kib<<10 + moreData, Max: kib<<10 + moreData}
	if err := unix.Prlimit(s.proxy.Pid(), unix.RLIMIT_DATA, &limit, nil); err != nil {
		t.Fatal(err)
	}
}

// heap is what the proxy's heap holds, in bytes, right after a collection.
func (s *faultSite) heap(t *testing.T) (bytes int) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(string(s.get(t, "/debug/pprof/heap?gc=1&debug=1"))))
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "# HeapAlloc = %d", &bytes); err == nil {
			return bytes
		}
	}
	t.Fatal("the heap's profile does not say HeapAlloc")
	return 0
}

// awaitHeap waits until the proxy's heap holds no more than most.
func (s *faultSite) awaitHeap(t *testing.T, most int) {
	t.Helper()
	now := s.heap(t)
	for deadline := time.Now().Add(patience); now > most && time.Now().Before(deadline); now = s.heap(t) {
		time.Sleep(20 * time.Millisecond) // it tells nobody
	}
	t.Logf("heap %d KiB after the storm", now>>10)
	if now > most {
		t.Errorf("the heap holds %d KiB after the storm, want %d at most", now>>10, most>>10)
	}
}
