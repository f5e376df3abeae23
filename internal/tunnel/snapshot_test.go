package tunnel

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// A tunnel's state can be read while it lives, and it is gone when the tunnel is.
func TestState(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.openIdle(time.Hour)
		c.playBoth()
		time.Sleep(time.Minute)
		c.client.send(part(wstest.Text, "hello"), last("!"))
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

// TestTrafficNeverGoesBack: whenever the counters are read, no tunnel's traffic is
// missing or counted twice, be it that it ends just then, or that its upstream leaves
// the configuration and comes back.
func TestTrafficNeverGoesBack(t *testing.T) {
	const workers, rounds = 4, 40
	r := newFixture(t, 0)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() { r.readTraffic(stop, workers*rounds) })
	}
	inParallel(workers, func(int) {
		for range rounds {
			lease := r.registry.Lease("wss://other.test", 0, nil)
			r.lease.exchange(lease, r.carryHello)
		}
	})
	close(stop)
	readers.Wait()
	for _, s := range r.registry.Upstreams() {
		if s.Traffic != helloTraffic(workers*rounds) || s.Tunnels != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// exchange has do open a tunnel with each lease, and releases the second.
func (l *Lease) exchange(other *Lease, do func(*Lease)) {
	do(l)
	do(other)
	other.Release()
}

// carryHello has a tunnel carry what helloTraffic counts, and waits for its end.
func (r *fixture) carryHello(lease *Lease) {
	clientLeg, client := memPair(room)
	relayLeg, relay := memPair(room)
	tunnel := lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	c := &peered{tunnel, newEndpoint(r.t, client, true), newEndpoint(r.t, relay, false)}
	c.client.send(wstest.Message("hello"))
	c.relay.expect(wstest.Message("hello"))
	c.playBoth()
	c.client.sendClose()
	r.summary()
}

// helloTraffic is what n tunnels of carryHello carry: a text and a Close frame with a
// code, each with a header of 2 bytes, and the client's with a key of 4.
func helloTraffic(n uint64) Traffic {
	return Traffic{
		BytesToRelay: n * (6 + 5 + 6 + 2), FramesToRelay: n * 2,
		BytesToClient: n * (2 + 2), FramesToClient: n,
	}
}

// readTraffic reads the counters until stop is closed.
func (r *fixture) readTraffic(stop <-chan struct{}, most uint64) {
	last := make(map[string]Traffic)
	for {
		select {
		case <-stop:
			return
		default:
		}
		for _, s := range r.registry.Upstreams() {
			if !s.Traffic.within(last[s.Name], helloTraffic(most)) {
				r.t.Errorf("%s: %+v after %+v", s.Name, s.Traffic, last[s.Name])
				return
			}
			last[s.Name] = s.Traffic
		}
	}
}

// within reports whether each figure of t is between those of least and most.
func (t Traffic) within(least, most Traffic) bool {
	between := func(least, n, most uint64) bool { return least <= n && n <= most }
	return between(least.BytesToRelay, t.BytesToRelay, most.BytesToRelay) &&
		between(least.BytesToClient, t.BytesToClient, most.BytesToClient) &&
		between(least.FramesToRelay, t.FramesToRelay, most.FramesToRelay) &&
		between(least.FramesToClient, t.FramesToClient, most.FramesToClient)
}

// TestUpstreams: what is told of upstreams as they are leased, used and drained.
func TestUpstreams(t *testing.T) {
	inBubble(t, time.Minute, func(r *fixture) {
		want := func(name string, configured bool, tunnels int, drain *DrainState) {
			t.Helper()
			for _, s := range r.registry.Upstreams() {
				if s.Name != name {
					continue
				}
				if s.Configured != configured || s.Tunnels != tunnels || (s.Drain == nil) != (drain == nil) || drain != nil && *s.Drain != *drain {
					t.Errorf("%+v, drain %+v", s, s.Drain)
				}
				return
			}
			t.Errorf("no %s", name)
		}
		loading := r.registry.Lease("wss://loading.test", 0, func() bool { return false })
		want("wss://loading.test", false, 0, nil)
		loading.Release()
		for range 2 {
			c := r.open()
			c.playBoth()
			c.client.send(wstest.Message("hello"))
		}
		want("wss://relay.test", true, 2, nil)
		ends := time.Now().Add(time.Minute)
		r.lease.Release()
		want("wss://relay.test", false, 2, &DrainState{2, 2, ends})
		time.Sleep(30 * time.Second)
		want("wss://relay.test", false, 1, &DrainState{2, 1, ends})
		r.registry.Wait()
		want("wss://relay.test", false, 0, nil)
		if n := len(r.registry.Upstreams()); n != 1 {
			t.Errorf("%d upstreams", n)
		}
	})
}

// TestDrainedTwice: a tunnel that is told to go once more has no more time for it.
func TestDrainedTwice(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.open() // whose peers are silent
		begun := time.Now()
		c.goAway(reasonDrained)
		time.Sleep(linger - time.Second)
		c.goAway(reasonDrained)
		r.summary()
		if took := time.Since(begun); took != linger {
			t.Errorf("it took %s", took)
		}
		if c.Alive() {
			t.Error("it is alive")
		}
		c.client.Close()
		c.relay.Close()
	})
}

// BenchmarkOpenWhileRead is how long a handshake waits for the registry with 50,000
// tunnels in it, while nobody reads it and while somebody reads all of it all the time.
func BenchmarkOpenWhileRead(b *testing.B) {
	const living = 50_000
	for name, read := range map[string]func(*Registry){
		"alone":   nil,
		"list":    func(r *Registry) { readStates(r.Tunnels()) },
		"metrics": func(r *Registry) { r.Upstreams() },
	} {
		b.Run(name, func(b *testing.B) {
			registry := NewRegistry(func(Summary) {})
			group := registry.Lease("wss://relay.test", 0, nil).group
			bare := func() *Tunnel {
				t := newTunnel(Info{}, nil, nil, 0)
				t.group, t.id = group, registry.ids.Add(1)
				group.count.Add(1)
				return t
			}
			for range living {
				group.add(bare())
			}
			stop := make(chan struct{})
			var reader sync.WaitGroup
			if read != nil {
				reader.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							read(registry)
						}
					}
				})
			}
			waits := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			for range b.N {
				t := bare()
				begun := time.Now()
				group.add(t)
				waits = append(waits, time.Since(begun))
				group.remove(t, Summary{})
			}
			b.StopTimer()
			close(stop)
			reader.Wait()
			slices.Sort(waits)
			b.ReportMetric(float64(waits[len(waits)*999/1000].Microseconds()), "p99.9-µs")
			b.ReportMetric(float64(waits[len(waits)-1].Microseconds()), "max-µs")
		})
	}
}

func readStates(ts []*Tunnel) {
	for _, t := range ts {
		t.State()
	}
}

// BenchmarkReadAll is what reading 50,000 tunnels costs.
func BenchmarkReadAll(b *testing.B) {
	registry := NewRegistry(func(Summary) {})
	group := registry.Lease("wss://relay.test", 0, nil).group
	for range 50_000 {
		t := newTunnel(Info{}, nil, nil, 0)
		t.group, t.id = group, registry.ids.Add(1)
		group.count.Add(1)
		group.add(t)
	}
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			readStates(registry.Tunnels())
		}
	})
	b.Run("metrics", func(b *testing.B) {
		for b.Loop() {
			registry.Upstreams()
		}
	})
}
