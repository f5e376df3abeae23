package tunnel

import "time"

// goroutines is the engine for legs that no event loop can carry: one goroutine for
// each direction, which blocks in reads and writes. The one that ends last has the
// legs settle and sums up.
type goroutines struct {
	t    *Tunnel
	done [2]chan struct{} // closed when copying is over: to the relay, to the client
}

func newGoroutines(t *Tunnel) *goroutines {
	t.running.Add(2)
	return &goroutines{t: t, done: [2]chan struct{}{make(chan struct{}), make(chan struct{})}}
}

func (g *goroutines) begin() {
	go g.copyToRelay()
	go g.copyToClient()
}

func (g *goroutines) copyToRelay() {
	defer g.t.running.Done()
	err := g.t.toRelay.copy(g.t.touch)
	close(g.done[0])
	g.ended(&g.t.toRelay, err)
}

func (g *goroutines) copyToClient() {
	defer g.t.running.Done()
	err := g.t.toClient.copy(g.t.touch)
	close(g.done[1])
	g.ended(&g.t.toClient, err)
}

// stop ends the directions that still run. What they are writing may be finished
// until the tunnel has to be over.
func (g *goroutines) stop() {
	t := g.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	until := t.endsByLocked()
	for _, d := range []*direction{&t.toRelay, &t.toClient} {
		t.running.Go(func() { g.interrupt(d, errStopped, until) }) // its legs may not be used for longer
	}
}

// ended does what is left to do after d.
func (g *goroutines) ended(d *direction, err error) {
	next, err := g.t.directionEnded(d, err)
	switch next {
	case settle:
		g.t.settleLegs()
		g.t.sumUp()
	case stopOther:
		g.interrupt(g.t.opposite(d), err, g.t.endsBy())
	}
}

// interrupt has d end with err. It tries again until d has: a connection that sets
// deadlines of its own may do so right after us. It tries once if d has ended before,
// for crypto/tls may be saying goodbye, which it does for up to 5 s.
func (g *goroutines) interrupt(d *direction, err error, until time.Time) {
	done := g.done[0]
	if d == &g.t.toClient {
		done = g.done[1]
	}
	d.stopped.CompareAndSwap(nil, &err)
	for pause := time.Millisecond; ; pause = min(2*pause, maxSettlePause) {
		d.src.stopReading()
		d.dst.limitWriting(until)
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
	}
}
