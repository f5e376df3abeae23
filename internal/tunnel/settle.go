package tunnel

import (
	"io"
	"net"
	"time"
)

// ending says how the last thing a peer sees of its leg looks.
type ending int

const (
	// endClean is an orderly end: TLS close_notify, or a closed HTTP stream.
	endClean ending = iota
	// endForced is an end that the peer has not been told of in TLS: the time
	// was up.
	endForced
	// endAbort makes an abnormal end visible as one: a TCP reset, TLS without
	// close_notify, or RST_STREAM.
	endAbort
)

// wire is the socket below a leg, while it settles.
type wire interface {
	// held tries to hand to the system what it has not taken yet, and returns how
	// many bytes of that are left.
	held() int
	// unsent returns how many bytes the system has taken and the peer's system has
	// not acknowledged, or unknown.
	unsent() int
	// gone is as a Leg's.
	gone() bool
	// discard throws away what has come. It returns nil when nothing more is there
	// for the moment, io.EOF at the end of the stream, or why there is no stream.
	discard() error

	CloseWrite() error
	SetLinger(sec int) error
	Close() error
}

const unknown = -1

const (
	// ackDelay is for how long a peer may delay the acknowledgement of bytes that
	// it has (RFC 9293, section 3.8.6.3, says less than 500 ms; Linux takes 40 at
	// most).
	ackDelay = 100 * time.Millisecond

	minSettlePause = time.Millisecond
	maxSettlePause = 100 * time.Millisecond

	// maxDiscard is how many buffers are thrown away at once.
	maxDiscard = 16
)

// settling is the last phase of a leg, after both directions: it delivers what is
// left and closes. Two things would lose what the kernel still has for the peer:
//
//   - closing with SO_LINGER 0, which is how a reset is passed on. So there is a
//     reset only when the peer has acknowledged all. On TLS legs where that takes a
//     while, the end of the stream without close_notify says the same (RFC 8446,
//     section 6.1), and no system discards what its program has not read yet.
//   - closing while there is input that nobody has read, which makes the kernel
//     reset the connection. So whatever comes is read and thrown away, until the
//     peer ends its stream too or has acknowledged all.
type settling struct {
	legEnd
	wire
	tls   bool
	begun time.Time
	fin   bool // the peer has been told that no more comes
	pause time.Duration
	cut   int // bytes that were not delivered, when it is over
}

func newSettling(end legEnd, w wire, tls bool) *settling {
	return &settling{legEnd: end, wire: w, tls: tls, begun: time.Now(), pause: minSettlePause}
}

// step does what can be done without waiting. If that was not all, it returns when
// to call it again.
func (s *settling) step(now time.Time) (again time.Duration, over bool) {
	held, err := s.held(), s.discard()
	s.atEnd = s.atEnd || err == io.EOF
	if s.dead || err != nil && err != io.EOF {
		s.close(held + s.left())
		return 0, true
	}
	if held == 0 && s.delivered(now) {
		s.close(0)
		return 0, true
	}
	until := s.until()
	if !now.Before(until) {
		s.close(held + s.left())
		return 0, true
	}
	if held == 0 && !s.fin && s.mayShutDown(now) {
		s.fin = true
		s.dead = s.CloseWrite() != nil
		return 0, false
	}
	again = min(s.pause, until.Sub(now))
	s.pause = min(2*s.pause, maxSettlePause)
	return again, false
}

// delivered reports whether the peer has got all, or will get it when the leg is
// closed.
func (s *settling) delivered(now time.Time) bool {
	switch {
	case s.how == endClean && s.atEnd || s.fin && s.atEnd:
		return true // nothing can come any more: the kernel delivers the rest by itself
	case s.how != endAbort && !s.fin:
		return false
	}
	unsent := s.unsent()
	if unsent == unknown {
		return s.how != endAbort && now.Sub(s.begun) > ackDelay
	}
	return unsent == 0 || s.fin && unsent == 1
}

// mayShutDown reports whether the end of the stream may go out.
func (s *settling) mayShutDown(now time.Time) bool {
	return s.how != endAbort || s.unsent() == unknown || s.tls && now.Sub(s.begun) > ackDelay
}

// left is what the system has not delivered, but for the end of the stream, which
// counts as a byte.
func (s *settling) left() int {
	n := max(s.unsent(), 0)
	if s.fin && n > 0 {
		n--
	}
	return n
}

func (s *settling) close(cut int) {
	s.cut += cut
	if s.how == endAbort && (!s.fin || !s.atEnd && cut > 0) {
		s.SetLinger(0) // Close then sends RST
	}
	s.Close()
}

// settleNow calls step until it is over.
func (s *settling) settleNow() (cut int) {
	for {
		again, over := s.step(time.Now())
		if over {
			return s.cut
		}
		time.Sleep(again)
	}
}

// connWire is the socket below a leg that Go's own poller watches over.
type connWire struct {
	below  net.Conn // what is closed: a wrapper may have its own ideas of that
	socket net.Conn // the innermost
	around net.Conn // what has been put around TLS; nil for nothing
}

// wireOf returns the wire below conn.
func wireOf(conn net.Conn) wire {
	below := BelowTLS(conn)
	if w, ok := below.(wire); ok {
		return w
	}
	w := connWire{below: below, socket: innermost(below)}
	if c := tlsOf(conn); c != nil && conn != net.Conn(c) {
		w.around = conn
	}
	return w
}

func (w connWire) held() int { return 0 } // Write has waited until all was taken

func (w connWire) unsent() int { return unsentOf(w.socket) }

func (w connWire) gone() (gone bool) {
	withSocket(w.socket, func(fd int) { gone = goneIn(fd) })
	return gone
}

// discard waits for a moment, because Go's sockets do not read without. Of other
// connections nobody knows whether they heed a deadline.
func (w connWire) discard() error {
	switch w.socket.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil
	}
	buf := takeBuffer()
	defer giveBuffer(buf)
	if err := w.socket.SetReadDeadline(time.Now().Add(minSettlePause)); err != nil {
		return nil
	}
	for range maxDiscard {
		if _, err := w.socket.Read(buf[:]); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				return nil
			}
			return err
		}
	}
	return nil
}

func (w connWire) CloseWrite() error {
	if c, ok := w.socket.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

func (w connWire) SetLinger(sec int) error {
	if c, ok := w.socket.(interface{ SetLinger(int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}

// Close closes what is below TLS first, which would send close_notify otherwise.
func (w connWire) Close() error {
	err := w.below.Close()
	if w.around != nil {
		w.around.Close() // may do more than what it is around, and finds that closed
	}
	return err
}
