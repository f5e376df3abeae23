// Package tunnel carries established WebSockets: it copies the bytes of a client
// leg and a relay leg to each other, follows frame boundaries without rewriting
// anything, and closes tunnels in an orderly way when their time has come.
//
// It knows HTTP only as far as a leg is a stream of it, and nothing of Caddy.
package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// linger is how long a tunnel lives on once its end has begun: the other
// direction may finish, a begun message may be completed, a Close frame answered.
// When both directions are over, what is left may be delivered for as long.
const linger = 5 * time.Second

// Who closed a tunnel.
const (
	ByClient = "client"
	ByRelay  = "relay"
	ByProxy  = "proxy"
)

// Info describes a tunnel. It is kept as long as the tunnel lives, so it holds
// copies, never parts of a request.
type Info struct {
	// Upstream is the name of the relay, without secrets.
	Upstream string
	// ClientIP is the address of the client, as far as it is known.
	ClientIP string
	// SessionID is the SDK's sessionId, shortened to what a log line can bear.
	SessionID string
	// HTTP is the major version of HTTP that the client speaks.
	HTTP uint8
	// Slot is freed once, when the tunnel is over and its connections are closed, whatever
	// has become of the configuration that opened it. A client's stream ends with its
	// handler, which it does not wait for. Free must not block. nil for none.
	Slot interface{ Free() }
}

// Summary is what remains of a tunnel when it is over.
type Summary struct {
	Info
	ID       uint64
	Duration time.Duration

	// BytesToRelay and BytesToClient count what was delivered, as far as that can
	// be known: what an orderly end leaves to the kernel counts as delivered.
	BytesToRelay, BytesToClient uint64

	// CutToRelay and CutToClient count what the tunnel had taken and could not
	// deliver, because the destination failed or did not take it in time. On TLS
	// legs they include what encryption adds to it.
	CutToRelay, CutToClient uint64

	FramesToRelay, FramesToClient uint64

	// ClosedBy is ByClient, ByRelay or ByProxy: the side whose end, fault or
	// Close frame came first.
	ClosedBy string
	// CloseCode is the code of the first Close frame, 1005 for one without a
	// code, 1006 where none was seen (RFC 6455, section 7.4.1).
	CloseCode int
	// Reason says why, in a word or two: "close frame", "end of stream",
	// "idle", "drained", or the network's error; never in a peer's words.
	Reason string
}

// Tunnel is a client leg and a relay leg after the handshake.
//
// Its engine carries the bytes: an event loop, or two goroutines. It tells of the
// end of each direction by directionEnded, has the legs settle, and sums up.
type Tunnel struct {
	Info
	id     uint64
	group  *Group
	opened time.Time
	idle   time.Duration

	client, relay     Leg
	toRelay, toClient direction

	active  atomic.Int64           // time of the last byte, since opened
	closer  atomic.Pointer[string] // the side whose Close frame came first
	running sync.WaitGroup
	engine  engine

	// mu protects what follows.
	mu            sync.Mutex
	idleTimer     *time.Timer   // nil without an idle timeout
	due           time.Duration // what is left of idle when idleTimer fires in time
	doubted       bool          // it seems idle, and is looked at once more
	waiting       int           // what was on its way when it was doubted
	endTimer      *time.Timer   // fires when a part of linger is over
	parts         int           // of linger that are left
	partDue       time.Time     // when endTimer fires in time
	cutoff        time.Time     // all is over by then; zero: linger after both directions
	ended         int           // directions that have ended
	over          bool          // nothing is left to be done
	aborted       bool
	relayOutcome  outcome // of toRelay, when that has ended
	clientOutcome outcome // of toClient
	closedBy      string
	closeCode     int
	reason        string
}

// engine carries the bytes of a tunnel.
type engine interface {
	// begin starts to carry. It is called once.
	begin()
	// stop ends the directions that have not ended yet: their time is up.
	stop()
}

// newTunnel makes a tunnel that does not run yet. idle of zero means forever.
func newTunnel(info Info, client, relay Leg, idle time.Duration) *Tunnel {
	t := &Tunnel{Info: info, client: client, relay: relay, idle: idle, opened: time.Now()}
	t.toRelay = direction{src: client, dst: relay, from: ByClient, masked: true, closer: &t.closer}
	t.toClient = direction{src: relay, dst: client, from: ByRelay, closer: &t.closer}
	return t
}

// prepare settles who carries the tunnel's bytes, an event loop or two goroutines,
// before anyone else sees the tunnel. It returns what begins.
func (t *Tunnel) prepare() (begin func()) {
	t.engine = t.newLoopEngine()
	if t.engine == nil {
		t.engine = newGoroutines(t)
	}
	return t.engine.begin
}

// startIdleTimer begins to watch for idleness.
func (t *Tunnel) startIdleTimer() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle > 0 && !t.over {
		t.idleTimer = time.AfterFunc(t.idle, t.checkIdle)
	}
}

// Wait returns when the tunnel is over and nothing uses its legs any more. It
// reports whether the end was an abnormal one, which the owner of a stream has
// to pass on.
//
// The handler of a stream calls it once, and writes for the tunnel meanwhile; nobody
// else may. The tunnel does not wait for that: it can be over, summed up and without its
// slot while Wait is held up by a client that takes nothing (see streamLeg).
func (t *Tunnel) Wait() (aborted bool) {
	stream, ok := t.client.(*streamLeg)
	if ok {
		stream.serve()
	}
	t.AwaitEnd()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.aborted || ok && stream.cut.Load()
}

// AwaitEnd returns when the tunnel is over. It is for whoever does not own its stream.
func (t *Tunnel) AwaitEnd() { t.running.Wait() }

func (t *Tunnel) touch() { t.active.Store(int64(time.Since(t.opened))) }

// noteEnd remembers the first cause of the tunnel's end: the first Close frame,
// or else what by did. mu is held.
func (t *Tunnel) noteEnd(by string, code int, reason string) {
	if t.closedBy != "" {
		return
	}
	t.closedBy, t.closeCode, t.reason = by, code, reason
	if closer := t.closer.Load(); closer != nil {
		d := &t.toRelay
		if *closer == ByRelay {
			d = &t.toClient
		}
		t.closedBy, t.closeCode, t.reason = *closer, int(d.code.Load()), "close frame"
	}
}

// endByLocked has all be over by then, or earlier if it was to be. mu is held.
func (t *Tunnel) endByLocked(then time.Time) {
	if t.cutoff.IsZero() || then.Before(t.cutoff) {
		t.cutoff = then
	}
}

// lingerParts is in how many parts a tunnel waits until linger is over. A process that
// was suspended has read nothing of what has come meanwhile: of that time no more than a
// part counts.
const lingerParts = 5

// lingerLocked bounds the rest of the tunnel's life. mu is held.
func (t *Tunnel) lingerLocked() {
	if t.endTimer == nil {
		t.parts = lingerParts
		t.endTimer = time.AfterFunc(t.nextPartLocked(), t.partOver)
	}
}

// nextPartLocked returns how long the next part of linger takes. mu is held.
func (t *Tunnel) nextPartLocked() time.Duration {
	t.partDue = time.Now().Add(linger / lingerParts)
	return linger / lingerParts
}

// partOver runs when a part of linger is over, and stops the engine after the last. That
// one has to have come in time.
func (t *Tunnel) partOver() {
	t.mu.Lock()
	t.parts--
	late := time.Since(t.partDue)
	suspended := late >= linger/lingerParts/2
	goesOn := !t.over && (t.parts > 0 || suspended)
	if goesOn {
		t.endTimer.Reset(t.nextPartLocked())
	}
	if suspended && !t.cutoff.IsZero() && !t.group.registry.Stopping() {
		t.cutoff = t.cutoff.Add(late) // a stop has its own limit, which nothing moves
	}
	over := t.over
	t.mu.Unlock()
	if !goesOn && !over {
		t.engine.stop()
	}
}

// goAway closes the tunnel on the proxy's behalf: a Close frame 1001 each way, at
// a boundary, and linger for the peers to answer and for all that is left.
func (t *Tunnel) goAway(reason string) {
	t.mu.Lock()
	t.endByLocked(time.Now().Add(linger)) // whoever comes second gives it no more time
	if t.over || t.closedBy != "" {
		t.mu.Unlock()
		return // it is ending by itself
	}
	t.noteEnd(ByProxy, closeGoingAway, reason)
	t.lingerLocked()
	t.running.Add(2) // not over, so not yet waited for in vain
	t.mu.Unlock()
	// Both are told before either has written, lest one peer's answer go to the
	// other ahead of our Close frame.
	t.toClient.goingAway.Store(true)
	t.toRelay.goingAway.Store(true)
	// A write may block until linger is over, and must not hold up the other.
	go t.writeClose(&t.toClient)
	go t.writeClose(&t.toRelay)
}

// lastMoment is what a tunnel has left when it is cut off.
const lastMoment = 200 * time.Millisecond

// cutOff ends the tunnel, whatever it is doing.
func (t *Tunnel) cutOff() {
	t.mu.Lock()
	t.endByLocked(time.Now().Add(lastMoment))
	over := t.over
	t.mu.Unlock()
	if !over {
		t.engine.stop()
	}
}

// writeClose needs no answer: a leg that cannot be written to ends by itself, or
// when linger is over.
func (t *Tunnel) writeClose(d *direction) {
	defer t.running.Done()
	_ = d.goAway()
}

const (
	// oversleep is how late a timer is, at least, if the process has not run for a
	// while: it, or its machine, was suspended.
	oversleep = time.Second

	// secondLook is how much later a tunnel is looked at once more that seems idle and
	// need not be.
	secondLook = 5 * time.Second
)

// checkIdle runs when the tunnel may have been idle for long enough. That it has read
// nothing does not always say so: a process that was suspended has not read what has
// come meanwhile, and a slow peer may still be taking what the system holds for it,
// which can be some MB.
func (t *Tunnel) checkIdle() {
	rest := t.idle - (time.Since(t.opened) - time.Duration(t.active.Load()))
	waiting := t.onItsWay(-rest)
	wait := rest
	t.mu.Lock()
	switch late := rest <= t.due-oversleep; {
	case rest > 0:
		t.doubted = false
	case late, !t.doubted && waiting > 0:
		t.doubted, t.waiting, wait = true, waiting, secondLook
	case t.doubted && waiting != t.waiting:
		t.doubted, wait = false, t.idle
	}
	if wait > 0 && !t.over {
		t.due = rest - wait
		t.idleTimer.Reset(wait)
	}
	t.mu.Unlock()
	if wait <= 0 {
		t.goAway("idle")
	}
}

// onItsWay returns how much the system holds for the peers of a tunnel that has read nothing
// for overdue longer than it may. What it holds for other streams of a client's connection
// cannot be told from what it holds for this one, and need never end; so that counts until
// the tunnel has been idle for twice as long.
func (t *Tunnel) onItsWay(overdue time.Duration) int {
	if _, shared := t.client.(*streamLeg); shared && overdue >= t.idle {
		return t.relay.unsent()
	}
	return t.client.unsent() + t.relay.unsent()
}

// sumUp ends the tunnel, whose legs are closed.
func (t *Tunnel) sumUp() {
	t.mu.Lock()
	t.over = true
	for _, timer := range []*time.Timer{t.idleTimer, t.endTimer} {
		if timer != nil {
			timer.Stop()
		}
	}
	s := Summary{
		Info: t.Info, ID: t.id, Duration: time.Since(t.opened),
		CutToRelay: t.relayOutcome.cut, CutToClient: t.clientOutcome.cut,
		FramesToRelay: t.toRelay.frames.Load(), FramesToClient: t.toClient.frames.Load(),
		ClosedBy: t.closedBy, CloseCode: t.closeCode, Reason: t.reason,
	}
	t.mu.Unlock()
	s.BytesToRelay = t.toRelay.bytes.Load() - s.CutToRelay
	s.BytesToClient = t.toClient.bytes.Load() - s.CutToClient
	t.group.remove(t, s)
}
