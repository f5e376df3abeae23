// Package tunnel carries established WebSockets: it copies the bytes of a client
// leg and a relay leg to each other, follows frame boundaries without rewriting
// anything, and closes tunnels in an orderly way when their time has come.
//
// It knows HTTP only as far as a leg is a stream of it, and nothing of Caddy.
package tunnel

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// linger is how long a tunnel lives on once its end has begun: the other
// direction may finish, a begun message may be completed, a Close frame answered.
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
}

// Summary is what remains of a tunnel when it is over.
type Summary struct {
	Info
	ID       uint64
	Duration time.Duration

	BytesToRelay, BytesToClient   uint64
	FramesToRelay, FramesToClient uint64

	// ClosedBy is ByClient, ByRelay or ByProxy: the side whose end, fault or
	// Close frame came first.
	ClosedBy string
	// CloseCode is the code of the first Close frame, 1005 for one without a
	// code, 1006 where none was seen (RFC 6455, section 7.4.1).
	CloseCode int
	// Reason says why, in a word or two: "close frame", "end of stream",
	// "idle", "drained", or the network's error.
	Reason string
}

// Tunnel is a client leg and a relay leg after the handshake.
//
// Two goroutines live as long as it does, copyToRelay and copyToClient. The one
// that ends last sums up.
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

	// looped, if the tunnel runs in an event loop, has that notice that the legs are
	// closed.
	looped func()

	// mu protects what follows.
	mu        sync.Mutex
	idleTimer *time.Timer // nil without an idle timeout
	endTimer  *time.Timer // fires when linger is over
	ended     int         // directions that have ended
	over      bool        // the legs are closed
	aborted   bool
	closedBy  string
	closeCode int
	reason    string
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
	if begin := t.prepareLoop(); begin != nil {
		return begin
	}
	t.running.Add(2)
	return func() {
		go t.copyToRelay()
		go t.copyToClient()
	}
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
func (t *Tunnel) Wait() (aborted bool) {
	t.running.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.aborted
}

func (t *Tunnel) copyToRelay() {
	defer t.running.Done()
	t.directionEnded(&t.toRelay, t.toRelay.copy(t.touch), ByRelay)
}

func (t *Tunnel) copyToClient() {
	defer t.running.Done()
	t.directionEnded(&t.toClient, t.toClient.copy(t.touch), ByClient)
}

func (t *Tunnel) touch() { t.active.Store(int64(time.Since(t.opened))) }

// directionEnded passes an orderly end on as a half-close and makes anything
// else the end of the tunnel. to is the side that d leads to.
func (t *Tunnel) directionEnded(d *direction, err error, to string) {
	orderly := isEOF(err)
	by := d.from
	if errors.Is(err, errWrite) {
		by = to
	}

	t.mu.Lock()
	t.noteEnd(by, closeAbnormal, endReason(err))
	t.ended++
	last := t.ended == 2
	halfClose := orderly && !last && !t.over
	if halfClose {
		t.lingerLocked()
	}
	t.mu.Unlock()

	switch {
	case halfClose:
		if err != errPeerClosed {
			t.halfClose(d)
		}
	case orderly:
		t.finish(endClean)
	default:
		t.finish(endAbort)
	}
	if last {
		t.account()
	}
}

// account sums up. A loop does not wait for that: whoever logs it may block.
func (t *Tunnel) account() {
	if t.looped == nil {
		t.sumUp()
		return
	}
	go func() {
		defer t.running.Done()
		t.sumUp()
	}()
}

// halfClose passes the end of d on. Where there is no half-closing, the end of
// one direction is the end of both.
func (t *Tunnel) halfClose(d *direction) {
	err := d.writeLast()
	if err == nil {
		err = d.dst.closeWrite()
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		t.finish(endClean)
	case err != nil:
		t.finish(endAbort)
	}
}

// endReason says why a direction has ended, without the addresses that net puts
// into its errors: whoever masks them does not want them in the logs either.
func endReason(err error) string {
	if isEOF(err) {
		return "end of stream"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}

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

// lingerLocked bounds the rest of the tunnel's life. mu is held.
func (t *Tunnel) lingerLocked() {
	if t.endTimer == nil {
		t.endTimer = time.AfterFunc(linger, func() { t.finish(endForced) })
	}
}

// finish closes both legs, which ends both directions.
func (t *Tunnel) finish(how ending) {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	t.over = true
	t.aborted = how == endAbort
	for _, timer := range []*time.Timer{t.idleTimer, t.endTimer} {
		if timer != nil {
			timer.Stop()
		}
	}
	t.mu.Unlock()
	t.client.end(how)
	t.relay.end(how)
	if t.looped != nil {
		t.looped()
	}
}

// goAway closes the tunnel on the proxy's behalf: a Close frame 1001 each way, at
// a boundary, and linger for the peers to answer.
func (t *Tunnel) goAway(reason string) {
	t.mu.Lock()
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

// writeClose needs no answer: a leg that cannot be written to ends by itself, or
// when linger is over.
func (t *Tunnel) writeClose(d *direction) {
	defer t.running.Done()
	_ = d.goAway()
}

// checkIdle runs when the tunnel may have been idle for long enough.
func (t *Tunnel) checkIdle() {
	rest := t.idle - (time.Since(t.opened) - time.Duration(t.active.Load()))
	if rest <= 0 {
		t.goAway("idle")
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.idleTimer.Reset(rest)
	}
}

func (t *Tunnel) sumUp() {
	t.mu.Lock()
	s := Summary{
		Info: t.Info, ID: t.id, Duration: time.Since(t.opened),
		BytesToRelay: t.toRelay.bytes.Load(), BytesToClient: t.toClient.bytes.Load(),
		FramesToRelay: t.toRelay.frames.Load(), FramesToClient: t.toClient.frames.Load(),
		ClosedBy: t.closedBy, CloseCode: t.closeCode, Reason: t.reason,
	}
	t.mu.Unlock()
	t.group.remove(t, s)
}
