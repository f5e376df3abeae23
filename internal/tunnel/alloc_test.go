package tunnel

import (
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
)

// A message costs no memory that is not used again, on any kind of connection, but
// for what crypto/tls allocates by itself. The exception is TLS whose readiness
// cannot be told: there a net.OpError says that a record of wakeSize or more is used
// up.
func TestSocketTunnelDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool forgets at random under the race detector")
	}
	for _, pair := range socketPairs {
		client, relay := kindNamed(pair[0]), kindNamed(pair[1])
		for _, size := range []int{16, wakeSize, 4000, bufferSize} {
			if size >= wakeSize && inGoroutines(pair) && (client.wakes() || relay.wakes()) {
				continue
			}
			a, b := client.connect(t)
			c, d := relay.connect(t)
			direct := allocsBetween(a, b, size) + allocsBetween(c, d, size)
			s := openSocketTunnel(t, client, relay, nil, nil)
			if n := allocsBetween(s.client, s.relay, size); n > direct {
				t.Errorf("%v: %v allocations for %d bytes each way, %v without a tunnel", pair, n, size, direct)
			}
			s.closeBoth(t)
		}
	}
}

// allocsBetween counts what it costs to send size bytes each way.
func allocsBetween(a, b net.Conn, size int) float64 {
	p, got := pattern(size), make([]byte, size)
	both := func() {
		a.Write(p)
		io.ReadFull(b, got)
		b.Write(p)
		io.ReadFull(a, got)
	}
	for range 20 {
		both() // fills pools and buffers
	}
	return testing.AllocsPerRun(100, both)
}

// inGoroutines reports whether a tunnel between such connections is not for an
// event loop.
func inGoroutines(pair [2]string) bool {
	return runtime.GOOS != "linux" || strings.HasSuffix(pair[0], "-wrapped") || pair[1] == "tls-deadlines"
}

// wakes reports whether legs of this kind wait in a wakeTLSSource then.
func (k socketKind) wakes() bool { return k.tls && !k.setsDeadlines }
