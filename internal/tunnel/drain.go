package tunnel

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const reasonDrained = "drained"

// drain closes the tunnels of a group one after another. Its goroutine ends when
// all are gone, at the latest linger after the last was told to, or when the
// group is leased again.
type drain struct {
	stop chan struct{} // closed when the group is leased again
	done chan struct{} // closed when the goroutine has ended
}

// drainLocked starts to drain g over window unless it is being drained already.
// g.mu is held.
func (g *Group) drainLocked(window time.Duration) {
	if g.drain != nil {
		return
	}
	g.drain = &drain{stop: make(chan struct{}), done: make(chan struct{})}
	g.draining.Store(true)
	go g.runDrain(g.drain, window)
}

// stopDrainLocked lets tunnels in again. g.mu is held.
func (g *Group) stopDrainLocked() {
	if g.drain == nil {
		return
	}
	close(g.drain.stop)
	g.drain = nil
	g.draining.Store(false)
}

func (g *Group) runDrain(d *drain, window time.Duration) {
	defer close(d.done)
	if g.goAwayEvenly(d, window) {
		g.awaitEmpty(d)
	}
}

// goAwayEvenly tells the tunnels to go, oldest first, evenly over window. It
// reports whether it came to the end.
func (g *Group) goAwayEvenly(d *drain, window time.Duration) bool {
	tunnels := g.all()
	slices.SortFunc(tunnels, func(a, b *Tunnel) int { return cmp.Compare(a.id, b.id) })
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; i < len(tunnels) && g.count.Load() > 0; {
		timer.Reset(time.Until(begun.Add(drainTime(i, len(tunnels), window))))
		select {
		case <-timer.C:
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

// drainTime is when the i-th of n tunnels is told to go: within its own share of
// window, near the middle. The jitter keeps processes that stop together out of
// step.
func drainTime(i, n int, window time.Duration) time.Duration {
	share := float64(window) / float64(n)
	return time.Duration(share * (float64(i) + 0.25 + rand.Float64()/2))
}

// awaitEmpty waits until the last tunnel has gone, linger at the most, or the
// drain is stopped.
func (g *Group) awaitEmpty(d *drain) {
	timer := time.NewTimer(linger)
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
