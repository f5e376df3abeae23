package tunnel

import (
	"crypto/tls"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const haveLoops = true

// pair is the two legs of a tunnel in an event loop, and the tunnel's engine. At any
// time it has one owner who carries its bytes: the loop, or a goroutine that the loop
// has lent it to.
type pair struct {
	tunnel        *Tunnel
	loop          *loop
	client, relay *sock
	socks         [2]*sock // both of them

	over bool // for the owner alone: both legs are closed

	begun  bool     // for the loop alone
	lent   bool     // set by the loop; whoever owns the pair may read it
	posted []func() // to be called by whom the pair is lent to; loop.mu protects it
}

// newLoopEngine hands t's legs over to an event loop. It returns nil, and leaves
// everything as it was, where the legs are not ones for a loop: TCP with or without
// TLS, and nothing in between but wrappers that only pass on.
func (t *Tunnel) newLoopEngine() engine {
	if !loopsWork() {
		return nil
	}
	// A typed nil would be no nil.
	if p := t.newPair(loops.forTunnel(t.id)); p != nil {
		return p
	}
	return nil
}

func (t *Tunnel) newPair(l *loop) *pair {
	client, relay := newSock(t.client), newSock(t.relay)
	if client == nil || relay == nil || l.reserve() != nil {
		closeUnused(client, relay)
		return nil
	}
	p := &pair{tunnel: t, loop: l, client: client, relay: relay, socks: [2]*sock{client, relay}}
	client.peer, relay.peer = relay, client
	client.from, relay.from = &t.toRelay, &t.toClient
	for _, s := range p.socks {
		s.loop, s.pair = l, p
		l.watch(s)
		s.takeOver()
	}
	t.running.Add(1)
	return p
}

// newSock returns a sock with a descriptor of its own for leg's socket, or nil.
func newSock(leg Leg) *sock {
	l, ok := leg.(*connLeg)
	if !ok || l.setsDeadlines {
		return nil
	}
	top := l.Conn
	tlsConn, isTLS := top.(*tls.Conn)
	if isTLS {
		if !tlsConn.ConnectionState().HandshakeComplete || renegotiates(tlsConn) {
			return nil
		}
		top = tlsConn.NetConn()
	}
	conn := top
	for passesOn(conn) {
		conn = wrappedBy(conn)
	}
	tcpConn, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	fd, err := duplicate(tcpConn)
	if err != nil {
		return nil
	}
	s := &sock{leg: l, tls: tlsConn, fd: fd}
	if conn != top {
		s.putBack(Pending(top, top))
	}
	return s
}

// putBack puts bytes that the wrapper below the leg was still holding where the leg
// finds them, with or without an event loop.
func (s *sock) putBack(held []byte) {
	if s.tls != nil {
		rawInputOf(s.tls).Write(held)
		return
	}
	s.leg.pending = append(s.leg.pending, held...)
}

// duplicate returns another descriptor of conn's socket. Go's own poller does not
// know it: it would wake up for each packet.
func duplicate(conn *net.TCPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if controlErr != nil {
		return 0, controlErr
	}
	return fd, err
}

func closeUnused(socks ...*sock) {
	for _, s := range socks {
		if s != nil {
			unix.Close(s.fd)
		}
	}
}

// takeOver puts s in the place of the connection that it duplicates.
func (s *sock) takeOver() {
	if s.tls == nil {
		s.leg.Conn.Close()
		s.leg.Conn = s
		return
	}
	s.tls.NetConn().Close()
	*netConnOf(s.tls) = s
}

func (p *pair) begin() {
	p.post(func() {
		p.begun = true
		for _, s := range p.socks {
			s.begin()
		}
	})
}

func (p *pair) stop() {
	p.post(func() {
		for _, s := range p.socks {
			s.stop()
		}
	})
}

// post has the owner call f soon, unless the pair is over. The loop passes f on if it
// has lent the pair by the time it comes to f.
func (p *pair) post(f func()) {
	p.loop.post(func() {
		if !p.lent {
			f()
			return
		}
		p.loop.mu.Lock()
		p.posted = append(p.posted, f)
		p.loop.mu.Unlock()
	})
}

const (
	// busyTurns is how many turns in a row a leg uses up before its pair is lent.
	busyTurns = 4

	// maxLoan is for how long: others may be waiting for the same.
	maxLoan = 20 * time.Millisecond
)

// borrowers are the goroutines that loops have lent pairs to.
var borrowers atomic.Int32

// lend gives the pair to a goroutine of its own for a while, unless there are as many
// of these as processors. It reports whether it has. The goroutine runs the same
// turns as the loop, but lets others run after each.
func (p *pair) lend() bool {
	if borrowers.Add(1) > int32(runtime.GOMAXPROCS(0)) {
		borrowers.Add(-1)
		return false
	}
	p.lent = true
	for _, s := range p.socks {
		if err := s.setLent(true); err != nil {
			s.endFrom(err)
		}
	}
	go p.borrow()
	return true
}

func (p *pair) borrow() {
	h := newHands()
	until := time.Now().Add(maxLoan)
	for p.turns(h) && time.Now().Before(until) {
		runtime.Gosched()
	}
	h.release()
	borrowers.Add(-1)
	p.loop.post(p.takeBack)
}

// turns gives both legs a turn and reports whether one has more to do.
func (p *pair) turns(h *hands) (more bool) {
	p.runPosted()
	for _, s := range p.socks {
		s.queued, s.input = false, true // nobody tells what has come
		if s.turn(h) {
			s.queued, more = true, true
		}
	}
	return more
}

func (p *pair) runPosted() {
	p.loop.mu.Lock()
	posted := p.posted
	p.posted = nil
	p.loop.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// takeBack is called by the loop when the pair is its own again.
func (p *pair) takeBack() {
	p.runPosted()
	p.lent = false
	if p.over { // which legSettled has left to us
		p.loop.release()
		return
	}
	for _, s := range p.socks {
		s.fullTurns = 0
		if err := s.setLent(false); err != nil {
			s.endFrom(err)
		}
		if s.queued {
			p.loop.queue.push(s)
		}
	}
}

// abandon ends both directions because of a fault of the loop.
func (p *pair) abandon(err error) {
	for _, s := range p.socks {
		s.endFrom(err)
	}
}

// settle begins the last phase of both legs.
func (p *pair) settle() {
	client, relay := p.tunnel.legEnds()
	p.client.settle(client)
	p.relay.settle(relay)
}

// legSettled sums up when both legs have. The loop does not wait for that: whoever
// logs it may block.
func (p *pair) legSettled() {
	if !p.client.settled || !p.relay.settled {
		return
	}
	p.over = true
	if !p.lent {
		p.loop.release()
	}
	go func() {
		defer p.tunnel.running.Done()
		p.tunnel.sumUp()
	}()
}
