package tunnel

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

const reasonDrained = "drained"

// drain closes the tunnels of a group one after another. Its goroutine ends when
// all are gone, at the latest linger and loggingTime after the last was told to, or
// when the group is in use again.
type drain struct {
	total int           // how many tunnels there were when it began
	until time.Time     // when the last tunnel is told to go, at the latest
	stop  chan struct{} // closed when the group is in use again
	done  chan struct{} // closed when the goroutine has ended
}

// drainLocked starts to drain g over window unless it is being drained already.
// g.mu is held.
func (g *Group) drainLocked(window time.Duration) {
	if g.drain != nil {
		return
	}
	g.drain = &drain{
		total: int(g.count.Load()),
		until: time.Now().Add(window),
		stop:  make(chan struct{}), done: make(chan struct{}),
	}
	g.draining.Store(true)
	go g.runDrain(g.drain, window)
}

// settleLocked lets tunnels in again if a lease has become active. g.mu is held.
func (g *Group) settleLocked() {
	if g.drain == nil || !g.inUseLocked() {
		return
	}
	close(g.drain.stop)
	g.drain = nil
	g.draining.Store(false)
}

// inUseLocked reports whether the running configuration has a lease on g. g.mu is
// held.
func (g *Group) inUseLocked() bool {
	if g.registry.stopping.Load() {
		return false
	}
	for l := range g.leases {
		if l.isActive() {
			return true
		}
	}
	return false
}

// windowLocked returns the longest window of g's leases, or of the active ones. g.mu
// is held.
func (g *Group) windowLocked(activeOnly bool) (window time.Duration) {
	for l := range g.leases {
		if !activeOnly || l.isActive() {
			window = max(window, l.window)
		}
	}
	return window
}

// currentDrain ends g's drain if g is in use again. It returns the drain that goes
// on, or nil.
func (g *Group) currentDrain() *drain {
	if !g.draining.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settleLocked()
	return g.drain
}

func (g *Group) runDrain(d *drain, window time.Duration) {
	defer close(d.done)
	if g.goAwayEvenly(d, window) {
		g.awaitEmpty(d)
	}
}

// goAwayEvenly tells the tunnels to go, oldest first, evenly over window. It
// reports whether it came to the end. Before each it asks whether the upstream is
// in use again, since nobody says when a configuration begins to run.
func (g *Group) goAwayEvenly(d *drain, window time.Duration) bool {
	tunnels := g.all()
	sortByAge(tunnels)
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; i < len(tunnels) && g.count.Load() > 0; {
		timer.Reset(time.Until(begun.Add(drainTime(i, len(tunnels), window))))
		select {
		case <-timer.C:
			if g.currentDrain() != d {
				return false
			}
			tunnels[i].goAway(reasonDrained)
			i++
		case <-g.emptied:
			// All may have left by themselves.
		case <-d.stop:
			return false
		}
	}
	return true
}

// Drain tells tunnels, whatever their upstreams, to go, oldest first and evenly over
// window. Whoever leaves meanwhile leaves a gap. It returns when the last was told to or ctx is done.
func Drain(ctx context.Context, tunnels []*Tunnel, window time.Duration) {
	sortByAge(tunnels)
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, t := range tunnels {
		if !t.Alive() {
			continue
		}
		timer.Reset(time.Until(begun.Add(drainTime(i, len(tunnels), window))))
		select {
		case <-timer.C:
			t.goAway(reasonDrained)
		case <-ctx.Done():
			return
		}
	}
}

func sortByAge(tunnels []*Tunnel) {
	slices.SortFunc(tunnels, func(a, b *Tunnel) int { return cmp.Compare(a.id, b.id) })
}

// drainTime is when the i-th of n tunnels is told to go: within its own share of
// window, near the middle. The jitter keeps processes that stop together out of
// step.
func drainTime(i, n int, window time.Duration) time.Duration {
	share := float64(window) / float64(n)
	return time.Duration(share * (float64(i) + 0.25 + rand.Float64()/2))
}

// loggingTime is how long a drain waits for its last tunnels to be logged once
// linger has ended them.
const loggingTime = time.Second

// awaitEmpty waits until the last tunnel has gone and is logged, linger and
// loggingTime at the most, or the drain is stopped.
func (g *Group) awaitEmpty(d *drain) {
	timer := time.NewTimer(linger + loggingTime)
	defer timer.Stop()
	for g.count.Load() > 0 {
		select {
		case <-g.emptied:
		case <-timer.C:
			return
		case <-d.stop:
			return
		}
	}
}
