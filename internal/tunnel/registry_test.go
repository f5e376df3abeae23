package tunnel

import (
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

func (r *fixture) groups() int {
	r.registry.mu.Lock()
	defer r.registry.mu.Unlock()
	return len(r.registry.groups)
}

// A reload leases anew before it releases: nothing happens to the tunnels.
func TestLeaseReplaced(t *testing.T) {
	inBubble(t, time.Second, func(r *fixture) {
		c := r.open()
		for range 20 {
			next := r.registry.Lease("wss://relay.test", time.Second, nil)
			r.lease.Release()
			r.lease = next
			time.Sleep(time.Minute)
			c.client.send(wstest.Message("hello"))
			c.relay.expect(wstest.Message("hello"))
		}
		r.noneEnded()
		if r.lease.Draining() || r.groups() != 1 {
			t.Errorf("draining %v, %d groups", r.lease.Draining(), r.groups())
		}
		r.registry.Wait() // for nothing
		c.playBoth()
		r.lease.Release()
		r.summary()
	})
}

// Upstreams have nothing to do with each other.
func TestLeaseOfAnotherUpstream(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.open()
		c.playBoth()
		other := r.registry.Lease("wss://other.test", 0, nil)
		other.Release()
		r.registry.Wait()
		r.noneEnded()
		if !other.Draining() || r.lease.Draining() {
			t.Error("the wrong upstream is drained")
		}
		r.lease.Release()
		r.summary()
	})
}

// The window of the lease that is released last counts, except when the process
// ends: then it is the longest one.
func TestDrainWindow(t *testing.T) {
	const short, long = 4 * time.Second, 8 * time.Second
	for _, c := range []struct {
		name  string
		drain func(r *fixture, other *Lease)
		want  time.Duration
	}{
		{"released", func(r *fixture, other *Lease) { other.Release(); r.lease.Release() }, short},
		{"released the other way", func(r *fixture, other *Lease) { r.lease.Release(); other.Release() }, long},
		{"process ends", func(r *fixture, other *Lease) { r.registry.Stop() }, long},
		{"process ends and leases", func(r *fixture, other *Lease) { r.registry.Stop(); r.lease.Release(); other.Release() }, long},
		{"twice", func(r *fixture, other *Lease) { r.registry.Stop(); r.registry.Stop() }, long},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, short, func(r *fixture) {
				for range 100 {
					r.open().playBoth()
				}
				begun := time.Now()
				c.drain(r, r.registry.Lease("wss://relay.test", long, nil))
				r.registry.Wait()
				if took := time.Since(begun); took > c.want || took < c.want-c.want/50 {
					t.Errorf("the drain took %v, want %v", took, c.want)
				}
				if n := len(r.summaries); n != 100 {
					t.Errorf("%d tunnels have ended", n)
				}
			})
		})
	}
}

// What is still open when a drain is stopped stays open, and takes its turn in the
// next one.
func TestLeaseStopsDrain(t *testing.T) {
	const count, window = 10, 10 * time.Second
	inBubble(t, window, func(r *fixture) {
		tunnels := make([]*peered, count)
		for i := range tunnels {
			tunnels[i] = r.open()
			tunnels[i].playBoth()
		}
		r.lease.Release()
		if !r.lease.Draining() {
			t.Error("not draining")
		}
		time.Sleep(window / 2)
		r.lease = r.registry.Lease("wss://relay.test", window, nil)
		if r.lease.Draining() {
			t.Error("still draining")
		}
		r.registry.Wait()
		time.Sleep(time.Hour)
		if n := len(r.summaries); n != count/2 {
			t.Errorf("%d tunnels have ended, want %d", n, count/2)
		}
		for _, c := range tunnels[count/2:] {
			c.client.send(wstest.Message("hello"))
		}
		synctest.Wait()
		begun := time.Now()
		r.lease.Release()
		r.registry.Wait()
		if took := time.Since(begun); took < window/2 || took > window {
			t.Errorf("the second drain took %v", took)
		}
		for i, c := range tunnels {
			if code := c.client.closeCode(); code != closeGoingAway {
				t.Errorf("client %d saw %d", i, code)
			}
			if i >= count/2 && string(c.relay.got[0].Payload) != "hello" {
				t.Errorf("relay %d got %v", i, c.relay.got)
			}
		}
	})
}

// A handshake that was on its way when its upstream went ends with a Close frame,
// not in the next drain.
func TestOpenWhileDraining(t *testing.T) {
	inBubble(t, time.Hour, func(r *fixture) {
		r.open() // keeps the drain going
		r.lease.Release()
		c := r.open()
		c.playBoth()
		if s := r.summary(); s.Reason != "drained" || s.ClosedBy != ByProxy || s.Duration != 0 {
			t.Errorf("%+v", s)
		}
		if a, b := c.client.closeCode(), c.relay.closeCode(); a != closeGoingAway || b != closeGoingAway {
			t.Errorf("the client saw %d, the relay %d", a, b)
		}
		r.registry.Wait()
	})
}

func TestOpenWhenForgotten(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		r.lease.Release()
		r.registry.Wait()
		c := r.open()
		c.playBoth()
		r.summary()
		c.client.ended(io.EOF)
		if code := c.client.closeCode(); code != closeGoingAway {
			t.Errorf("the client saw %d", code)
		}
	})
}

// Nothing is left of an upstream that is gone, however its tunnels have ended.
func TestGroupsForgotten(t *testing.T) {
	for name, end := range map[string]func(r *fixture){
		"no tunnels": func(r *fixture) { r.lease.Release() },
		"answered": func(r *fixture) {
			r.open().playBoth()
			r.lease.Release()
		},
		"unanswered": func(r *fixture) {
			r.open()
			r.lease.Release()
		},
		"ended before": func(r *fixture) {
			c := r.open()
			c.playBoth()
			c.client.CloseWrite()
			c.Wait()
			r.lease.Release()
		},
		"ended meanwhile": func(r *fixture) {
			c := r.open()
			c.playBoth()
			r.lease.Release()
			c.client.CloseWrite()
		},
		"the process ends": func(r *fixture) {
			r.open().playBoth()
			r.registry.Stop()
			r.registry.Wait()
			r.lease.Release()
		},
		"leased again": func(r *fixture) {
			r.open().playBoth()
			r.lease.Release()
			r.lease = r.registry.Lease("wss://relay.test", 0, nil)
			r.lease.Release()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Second, func(r *fixture) {
				end(r)
				r.registry.Wait()
				time.Sleep(time.Minute)
				if n := r.groups(); n != 0 {
					t.Errorf("%d groups are left", n)
				}
			})
		})
	}
}

// Everything at once, for the race detector: handshakes, ends and reloads. In the
// end nothing is left.
func TestRegistryConcurrently(t *testing.T) {
	const reloads, openers, each = 50, 8, 40
	inBubble(t, 100*time.Millisecond, func(r *fixture) {
		pause := func(most time.Duration) { time.Sleep(rand.N(most)) }
		go inParallel(openers, func(int) {
			for range each {
				c := r.open()
				c.playBoth()
				switch rand.N(4) {
				case 0:
					c.client.sendClose()
				case 1:
					c.relay.CloseWrite()
				case 2:
					c.client.abort()
				}
				pause(20 * time.Millisecond)
			}
		})
		inParallel(2, func(i int) {
			for range reloads {
				upstream := []string{"wss://relay.test", "wss://other.test"}[i]
				lease := r.registry.Lease(upstream, rand.N(50*time.Millisecond), nil)
				pause(20 * time.Millisecond)
				lease.Release()
				r.registry.Wait()
			}
		})
		time.Sleep(time.Minute)
		r.lease.Release()
		r.registry.Wait()
		synctest.Wait()
		if n := len(r.summaries); n != openers*each {
			t.Errorf("%d tunnels have ended, want %d", n, openers*each)
		}
		if n := r.groups(); n != 0 {
			t.Errorf("%d groups are left", n)
		}
	})
}

// load is a configuration that is loaded: its lease counts from run on.
type load struct {
	*Lease
	runs atomic.Bool
}

func (r *fixture) load(upstream string, window time.Duration) *load {
	l := new(load)
	l.Lease = r.registry.Lease(upstream, window, func() bool { return l.runs.Load() })
	return l
}

// A configuration that is loaded and rejected changes nothing: the drain goes on as
// if it had not been there.
func TestRejectedLeaseChangesNothing(t *testing.T) {
	const count, window = 20, 10 * time.Second
	inBubble(t, window, func(r *fixture) {
		for range count {
			r.open().playBoth()
		}
		begun := time.Now()
		r.lease.Release()
		for i := range 100 {
			rejected := r.load("wss://relay.test", time.Hour)
			if i < 50 && !rejected.Draining() {
				t.Error("a configuration that does not run yet ends the drain")
			}
			time.Sleep(window / 100)
			rejected.Release()
		}
		r.registry.Wait()
		if took := time.Since(begun); took > window {
			t.Errorf("the drain took %v", took)
		}
		if n := len(r.summaries); n != count {
			t.Errorf("%d tunnels have ended, want %d", n, count)
		}
		if n := r.groups(); n != 0 {
			t.Errorf("%d groups are left", n)
		}
	})
}

// ... also when the upstream is in use, or is new and has tunnels already.
func TestRejectedLease(t *testing.T) {
	inBubble(t, time.Second, func(r *fixture) {
		r.open().playBoth()
		r.load("wss://relay.test", 0).Release()
		r.registry.Wait()
		r.noneEnded()

		rejected := r.load("wss://other.test", time.Second)
		clientLeg, client := memPair(room)
		relayLeg, relay := memPair(room)
		c := &peered{
			rejected.Open(Info{Upstream: "wss://other.test"}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0),
			newEndpoint(t, client, true), newEndpoint(t, relay, false),
		}
		c.playBoth()
		time.Sleep(time.Minute)
		r.noneEnded()
		rejected.Release()
		r.registry.Wait()
		if s := r.summary(); s.Upstream != "wss://other.test" || s.Reason != "drained" {
			t.Errorf("%+v", s)
		}
		r.lease.Release()
		r.summary()
	})
}

// A configuration takes as long as it likes to load. When it runs, what is open then
// stays open, without anyone saying so.
func TestLeaseBecomesActive(t *testing.T) {
	const count, window = 10, 10 * time.Second
	inBubble(t, window, func(r *fixture) {
		for range count {
			r.open().playBoth()
		}
		r.lease.Release()
		next := r.load("wss://relay.test", window)
		time.Sleep(window / 2)
		next.runs.Store(true)
		time.Sleep(time.Hour)
		if n := len(r.summaries); n != count/2 {
			t.Errorf("%d tunnels have ended, want %d", n, count/2)
		}
		if next.Draining() {
			t.Error("still draining")
		}
		next.runs.Store(false)
		next.Release()
		r.registry.Wait()
		if n := len(r.summaries); n != count {
			t.Errorf("%d tunnels have ended, want %d", n, count)
		}
	})
}

// The new configuration runs before the old one is cleaned up, handler by handler.
func TestReloadWithSeveralHandlers(t *testing.T) {
	inBubble(t, time.Second, func(r *fixture) {
		r.open().playBoth()
		configuration := func() []*load {
			return []*load{r.load("wss://relay.test", time.Second), r.load("wss://relay.test", time.Minute)}
		}
		run := func(ls []*load, runs bool) {
			for _, l := range ls {
				l.runs.Store(runs)
			}
		}
		release := func(ls []*load) {
			for _, l := range ls {
				l.Release()
			}
		}
		old := configuration()
		run(old, true)
		r.lease.Release()
		for range 10 {
			next := configuration()
			run(old, false)
			run(next, true)
			release(old)
			old = next
			time.Sleep(time.Hour)
			r.noneEnded()
		}
		// Gone from the configuration: the longest window counts, in whatever order
		// they are released.
		run(old, false)
		release(old)
		begun := time.Now()
		r.registry.Wait()
		if took := time.Since(begun); took < 15*time.Second || took > 45*time.Second {
			t.Errorf("the drain of one tunnel over a minute took %v", took)
		}
		r.summary()
	})
}

// Once the process stops, nothing ends its drain: neither a configuration that is
// loaded meanwhile nor one that runs.
func TestNothingEndsTheDrainOfAStop(t *testing.T) {
	const count, window = 20, 10 * time.Second
	inBubble(t, window, func(r *fixture) {
		for range count {
			r.open().playBoth()
		}
		begun := time.Now()
		if limit := r.registry.Stop(); limit != window+linger {
			t.Errorf("the limit is %v", limit)
		}
		r.lease.Release()
		time.Sleep(window / 4)
		late := r.load("wss://relay.test", time.Hour)
		late.runs.Store(true)
		other := r.registry.Lease("wss://other.test", time.Hour, nil)
		if !late.Draining() || !other.Draining() {
			t.Error("a configuration takes tunnels while the process stops")
		}
		if limit := r.registry.Stop(); limit != window+linger-window/4 {
			t.Errorf("then the limit is %v", limit)
		}
		r.registry.Wait()
		if took := time.Since(begun); took > window || took < window/2 {
			t.Errorf("the drain took %v", took)
		}
		if n := len(r.summaries); n != count {
			t.Errorf("%d tunnels have ended, want %d", n, count)
		}
		late.Release()
		other.Release()
	})
}

// The windows of a configuration that is being loaded, and may be rejected, do not
// lengthen a stop.
func TestStopWhileLoading(t *testing.T) {
	for name, runs := range map[string]bool{"one runs": true, "it has been stopped": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(r *fixture) {
				r.lease.Release()
				running := r.load("wss://relay.test", time.Second)
				running.runs.Store(runs)
				if runs {
					r.load("wss://relay.test", time.Hour)
					r.load("wss://other.test", time.Hour)
				}
				if limit := r.registry.Stop(); limit != time.Second+linger {
					t.Errorf("the limit is %v", limit)
				}
				r.registry.Wait()
			})
		})
	}
}

// What was dropped before the stop has its own window, the rest of which counts.
func TestStopWaitsForEarlierDrains(t *testing.T) {
	const window, short = 8 * time.Second, time.Second
	inBubble(t, window, func(r *fixture) {
		for range 30 {
			r.open().playBoth()
		}
		other := r.registry.Lease("wss://other.test", short, nil)
		r.lease.Release()
		time.Sleep(2 * time.Second)
		if limit := r.registry.Stop(); limit != window-2*time.Second+linger {
			t.Errorf("the limit is %v", limit)
		}
		other.Release()
		begun := time.Now()
		r.registry.Wait()
		if took := time.Since(begun); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("the rest of the drain took %v", took)
		}
		for len(r.summaries) > 0 {
			if s := r.summary(); s.Reason != "drained" {
				t.Errorf("%+v", s)
			}
		}
	})
}

// The last tunnel's line is logged before the wait is over, although its peer never
// answers.
func TestWaitIncludesTheLastLogLine(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		for range 50 {
			r.open()
		}
		slow := r.registry.onClose
		r.registry.onClose = func(s Summary) {
			time.Sleep(100 * time.Millisecond)
			slow(s)
		}
		r.registry.Stop()
		r.registry.Wait()
		if n := len(r.summaries); n != 50 {
			t.Errorf("%d tunnels are logged", n)
		}
	})
}

func TestEndAll(t *testing.T) {
	inBubble(t, time.Hour, func(r *fixture) {
		for range 10 {
			r.open()
		}
		r.registry.Stop()
		r.registry.EndAll()
		begun := time.Now()
		r.registry.Wait()
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %v", took)
		}
		if n := len(r.summaries); n != 10 {
			t.Errorf("%d tunnels have ended", n)
		}
	})
}

// A handshake may end when its upstream has been released and forgotten. Its tunnel
// has the time of any other to answer the Close frames, and is waited for.
func TestOpenOnForgottenUpstream(t *testing.T) {
	inBubble(t, time.Second, func(r *fixture) {
		r.lease.Release()
		r.registry.Wait()
		if n := r.groups(); n != 0 {
			t.Errorf("%d groups", n)
		}
		c := r.open()
		synctest.Wait()
		if n := len(r.registry.Tunnels()); n != 1 {
			t.Errorf("%d tunnels are known", n)
		}
		limit := r.registry.Stop()
		begun := time.Now()
		go func() { time.Sleep(linger / 2); c.playBoth() }()
		r.registry.Wait()
		if len(r.summaries) != 1 {
			t.Errorf("the drain of %v is over after %v, without the tunnel", limit, time.Since(begun))
		}
		r.summary()
		if n := r.groups(); n != 0 {
			t.Errorf("%d groups", n)
		}
	})
}

// When that upstream is back by then, it is the new lease's tunnel.
func TestOpenOnUpstreamThatIsBack(t *testing.T) {
	inBubble(t, time.Second, func(r *fixture) {
		r.lease.Release()
		r.registry.Wait()
		next := r.registry.Lease("wss://relay.test", time.Second, nil)
		c := r.open()
		c.playBoth()
		r.noneEnded()
		next.Release()
		r.summary()
	})
}

// A handshake may be over only when a stop has drained all others: its tunnel gets its
// Close frames and its time, too, and is summed up before the process ends.
func TestStopAwaitsLateTunnel(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		r.registry.Stop()
		r.registry.Wait()
		r.open().playBoth()
		r.open() // whose peers do not answer
		r.registry.Wait()
		if n := len(r.summaries); n != 2 {
			t.Errorf("%d tunnels have ended", n)
		}
	})
}
