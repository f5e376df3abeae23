package tunnel

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sock is the connection below a leg of a tunnel in an event loop: a net.Conn that
// never blocks. Read fails with errWouldBlock; Write keeps what the socket does not
// take. What carries bytes is in loop_turn_linux.go.
type sock struct {
	loop  *loop
	pair  *pair
	from  *direction // leaves this leg: reads from it
	peer  *sock      // the other leg
	entry uint32     // tells its events from those of another with the same descriptor

	// For the pair's owner alone.
	leg       *connLeg
	tls       *tls.Conn // nil for a leg without TLS
	record    *record   // lent to tls; nil while there is no input
	partial   []byte    // of a TLS record that has not come whole
	queued    bool      // waits for a turn
	inQueue   bool      // for the loop alone: is in its queue, maybe no longer for a turn
	input     bool      // there may be something to read
	full      bool      // the last read has filled its buffer: there may be more
	fullTurns int       // in a row that were used up
	paused    bool      // does not read until there is room
	atEnd     error     // from will end so when the backlog of peer is gone; nil before
	ended     bool      // from has ended
	settling  *settling // nil before both directions have ended
	settled   bool      // closed

	mu      sync.Mutex // protects what follows, and fd from being closed while in use
	fd      int
	closed  bool
	lent    bool   // its events are not wanted
	reading bool   // whether from may read
	backlog []byte // written but not taken yet; see maxBacklog
	fin     bool   // the end of the stream is to follow the backlog
	failed  error  // of a write that has found no one to tell
	events  uint32 // what epoll is asked for; 0: not entered
}

// maxBacklog bounds what a leg holds that its socket does not take: one piece from
// the other leg, which comes only when there is nothing, a Close frame, and what
// crypto/tls itself writes. A leg that has more than that is not read from, because
// reading is what makes crypto/tls write: it answers a KeyUpdate, and sends an alert.
// One read adds 16 such records at most. So all is below maxBacklog and a piece.
const maxBacklog = 24 << 10

// Read is what crypto/tls calls, as often as it takes until a message is whole.
func (s *sock) Read(p []byte) (int, error) {
	if s.tls != nil && handOf(s.tls).Len() > maxHandshake {
		return 0, errHandshakeTooLong
	}
	return s.readSocket(p)
}

func (s *sock) readSocket(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	for {
		n, err := unix.Read(s.fd, p)
		s.full = n == len(p)
		switch {
		case n > 0:
			return n, nil
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, errWouldBlock
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		default:
			return 0, io.EOF
		}
	}
}

func (s *sock) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.failed != nil:
		return 0, s.failed
	}
	rest := p
	if len(s.backlog) == 0 {
		if rest = s.writeLocked(p); s.failed != nil {
			return len(p) - len(rest), s.failed
		}
	}
	if len(rest) > 0 {
		s.backlog = append(s.backlog, rest...)
		return len(p), s.updateLocked()
	}
	return len(p), nil
}

// writeLocked writes what the socket takes, and returns the rest.
func (s *sock) writeLocked(p []byte) []byte {
	for len(p) > 0 {
		n, err := unix.Write(s.fd, p)
		switch {
		case n > 0:
			p = p[n:]
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return p
		default:
			s.failed = os.NewSyscallError("write", err)
			return p
		}
	}
	return nil
}

// flush writes the backlog and returns how much of it is left. An error says that
// the socket takes nothing any more; the backlog is kept to be counted, but epoll is
// not asked about it.
func (s *sock) flush() (left int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, nil
	}
	if s.failed == nil && len(s.backlog) > 0 {
		if s.backlog = s.writeLocked(s.backlog); len(s.backlog) == 0 {
			s.backlog = nil // lets go of the memory
			s.finishLocked()
		}
		if err := s.updateLocked(); err != nil && s.failed == nil {
			s.failed = err
		}
	}
	return len(s.backlog), s.failed
}

func (s *sock) backlogSize() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.backlog)
}

// setReading says whether from wants what comes. While it does not, epoll must not
// be asked for anything: it reports errors and hang-ups even so.
func (s *sock) setReading(reading bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = reading
	return s.updateLocked()
}

// setLent says whether the events of s are wanted by nobody.
func (s *sock) setLent(lent bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent = lent || s.settling != nil
	return s.updateLocked()
}

// updateLocked tells epoll what to wait for.
func (s *sock) updateLocked() error {
	var want uint32
	if s.reading && !s.lent {
		want |= unix.EPOLLIN
	}
	if len(s.backlog) > 0 && s.failed == nil && !s.lent {
		want |= unix.EPOLLOUT
	}
	if want == s.events || s.closed {
		return nil
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case s.events == 0:
		op = unix.EPOLL_CTL_ADD
	case want == 0:
		op = unix.EPOLL_CTL_DEL
	}
	err := s.controlLocked(op, want)
	if err == nil {
		s.events = want
	}
	return os.NewSyscallError("epoll_ctl", err)
}

func (s *sock) controlLocked(op int, events uint32) error {
	return unix.EpollCtl(s.loop.epoll, op, s.fd,
		&unix.EpollEvent{Fd: int32(s.fd), Pad: int32(s.entry), Events: events})
}

// Close closes the socket, whatever it has not taken. It leaves epoll first: closing
// does not do that while a process that is being started has the descriptor too.
func (s *sock) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.events != 0 {
		_ = s.controlLocked(unix.EPOLL_CTL_DEL, 0)
	}
	s.closed, s.backlog, s.events = true, nil, 0
	s.loop.forget(s)
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// CloseWrite has the end of the stream follow the backlog.
func (s *sock) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.failed != nil:
		return s.failed
	}
	s.fin = true
	s.finishLocked()
	return s.failed
}

func (s *sock) finishLocked() {
	if s.fin && len(s.backlog) == 0 && s.failed == nil {
		s.fin = false
		s.failed = os.NewSyscallError("shutdown", unix.Shutdown(s.fd, unix.SHUT_WR))
	}
}

// SetLinger has the meaning that it has for a net.TCPConn.
func (s *sock) SetLinger(sec int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: int32(sec)})
}

// held, unsent, gone and discard make s a wire.

func (s *sock) held() int {
	left, _ := s.flush()
	return left
}

func (s *sock) unsent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	return unsentIn(s.fd)
}

func (s *sock) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || goneIn(s.fd)
}

func (s *sock) discard() error {
	buf := takeBuffer()
	defer giveBuffer(buf)
	for range maxDiscard {
		if _, err := s.readSocket(buf[:]); err == errWouldBlock {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// A sock has no use for deadlines, which crypto/tls sets when it says goodbye, and
// nobody asks for its addresses.

func (s *sock) SetDeadline(time.Time) error      { return nil }
func (s *sock) SetReadDeadline(time.Time) error  { return nil }
func (s *sock) SetWriteDeadline(time.Time) error { return nil }
func (s *sock) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *sock) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
