package tunnel

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A tunnel's state can be read while it lives, and it is gone when the tunnel is.
func TestState(t *testing.T) {
	inBubble(t, 0, func(r *rig) {
		c := r.openIdle(time.Hour)
		c.playBoth()
		time.Sleep(time.Minute)
		c.client.send(part(opText, "hello"), wsFrame{true, opContinuation, []byte("!")})
		synctest.Wait()
		time.Sleep(3 * time.Second)

		ts := r.registry.Tunnels()
		if len(ts) != 1 {
			t.Fatalf("%d tunnels live", len(ts))
		}
		s := ts[0].State()
		if s.ID == 0 || s.SessionID != "s" || time.Since(s.Opened) != time.Minute+3*time.Second || s.Idle != 3*time.Second {
			t.Errorf("%+v", s)
		}
		// Two masked frames: headers of 2 bytes, keys of 4, 5 bytes and 1.
		if s.FramesToRelay != 2 || s.BytesToRelay != 2*6+5+1 || s.FramesToClient != 0 || s.BytesToClient != 0 {
			t.Errorf("%+v", s)
		}
		r.lease.Release()
		r.registry.Wait()
		if n := len(r.registry.Tunnels()); n != 0 {
			t.Errorf("%d tunnels live", n)
		}
	})
}

// A byte that comes while the state is read does not make the tunnel idle since the
// future.
func TestStateIsNotIdleSinceTheFuture(t *testing.T) {
	tunnel := newTunnel(Info{}, nil, nil, 0)
	var done atomic.Bool
	var touching sync.WaitGroup
	for range 4 {
		touching.Go(func() {
			for !done.Load() {
				tunnel.touch()
			}
		})
	}
	for range 30_000 {
		if idle := tunnel.State().Idle; idle < 0 {
			t.Errorf("idle for %v", idle)
			break
		}
	}
	done.Store(true)
	touching.Wait()
}
