package load

import (
	"net"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
)

// TestWithoutProxy has each kind of load reach the relay with nothing in between.
func TestWithoutProxy(t *testing.T) {
	target := startRelay(t)
	t.Run("tunnels", func(t *testing.T) {
		tunnels, err := OpenTunnels(t.Context(), target, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer tunnels.Close()
		pace, err := ParsePace("300")
		if err != nil {
			t.Fatal(err)
		}
		if trips, err := tunnels.Send(t.Context(), pace, 100*time.Millisecond); err != nil || len(trips) == 0 {
			t.Errorf("%d round trips, %v", len(trips), err)
		}
	})
	t.Run("quiet", func(t *testing.T) {
		quiet, err := OpenQuiet(t.Context(), target, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer quiet.Close()
		for id, trips := range quiet.Probe(t.Context(), 10*time.Millisecond, 100*time.Millisecond) {
			if trips.Err != nil || len(trips.Times) == 0 {
				t.Errorf("tunnel %d: %d round trips, %v", id, len(trips.Times), trips.Err)
			}
		}
	})
	t.Run("bulk", func(t *testing.T) {
		for name, carry := range map[string]func(*Bulk) (int, error){
			"up":   func(b *Bulk) (int, error) { return b.Send(t.Context(), 50*time.Millisecond) },
			"down": func(b *Bulk) (int, error) { return b.Receive(t.Context(), 50*time.Millisecond) },
		} {
			bulk, err := OpenBulk(t.Context(), target, 2)
			if err != nil {
				t.Fatal(err)
			}
			defer bulk.Close()
			if frames, err := carry(bulk); err != nil || frames == 0 {
				t.Errorf("%s: %d frames, %v", name, frames, err)
			}
		}
	})
	t.Run("posts", func(t *testing.T) {
		posters, err := OpenPosters(t.Context(), target, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer posters.Close()
		if trips, err := posters.Post(t.Context(), 50*time.Millisecond); err != nil || len(trips) == 0 {
			t.Errorf("%d round trips, %v", len(trips), err)
		}
	})
}

// startRelay runs a relay until the test ends.
func startRelay(t *testing.T) Target {
	t.Helper()
	certs, err := contestant.MakeCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	addr := wstest.FreeAddr(t)
	ended := make(chan error, 1)
	go func() { ended <- relay.Serve(t.Context(), addr, certs.Relay.Cert, certs.Relay.Key) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return NewTarget(addr, contestant.RelayName, certs.Pool)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
