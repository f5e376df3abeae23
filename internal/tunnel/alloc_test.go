package tunnel

import (
	"io"
	"runtime"
	"strings"
	"testing"
)

// A message costs no memory that is not used again, on any kind of connection. The
// exception is TLS whose readiness cannot be told: there a net.OpError says that a
// record of wakeSize or more is used up.
func TestSocketTunnelDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool forgets at random under the race detector")
	}
	for _, pair := range socketPairs {
		client, relay := kindNamed(pair[0]), kindNamed(pair[1])
		for _, size := range []int{16, wakeSize, 4000, 60_000} {
			if size >= wakeSize && inGoroutines(pair) && (client.wakes() || relay.wakes()) {
				continue
			}
			s := openSocketTunnel(t, client, relay, nil, nil)
			p, got := pattern(size), make([]byte, size)
			both := func() {
				s.client.Write(p)
				io.ReadFull(s.relay, got)
				s.relay.Write(p)
				io.ReadFull(s.client, got)
			}
			for range 20 {
				both() // fills pools
			}
			if n := testing.AllocsPerRun(100, both); n > 0 {
				t.Errorf("%v: %v allocations for %d bytes each way", pair, n, size)
			}
			s.closeBoth(t)
		}
	}
}

// inGoroutines reports whether a tunnel between such connections is not for an
// event loop.
func inGoroutines(pair [2]string) bool {
	return runtime.GOOS != "linux" || strings.HasSuffix(pair[0], "-wrapped") || pair[1] == "tls-rearmed"
}

// wakes reports whether legs of this kind wait in a wakeTLSSource then.
func (k socketKind) wakes() bool { return k.tls && !k.rearmed }
