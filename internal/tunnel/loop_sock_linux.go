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
// take.
type sock struct {
	loop   *loop
	tunnel *Tunnel
	from   *direction // leaves this leg: reads from it
	peer   *sock      // the other leg

	// For the loop alone.
	leg    *connLeg
	tls    *tls.Conn // nil for a leg without TLS
	record *record   // lent to tls; nil while there is no input
	atEnd  error     // from will end so when the backlog of peer is gone; nil before
	ended  bool      // from has ended

	mu      sync.Mutex // protects what follows, and fd from being closed while in use
	fd      int
	closed  bool
	reading bool   // whether from may read
	backlog []byte // written but not taken yet; not more than one piece and a Close frame
	events  uint32 // what epoll is asked for; 0: not entered
}

// errWouldBlock says that a read would have to wait. crypto/tls takes a temporary
// net.Error for no more than that.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "reading would block" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

func (s *sock) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	for {
		n, err := unix.Read(s.fd, p)
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
	if s.closed {
		return 0, net.ErrClosed
	}
	rest := p
	if len(s.backlog) == 0 {
		var err error
		if rest, err = s.writeLocked(p); err != nil {
			return len(p) - len(rest), err
		}
	}
	if len(rest) > 0 {
		s.backlog = append(s.backlog, rest...)
		return len(p), s.updateLocked()
	}
	return len(p), nil
}

// writeLocked writes what the socket takes, and returns the rest.
func (s *sock) writeLocked(p []byte) ([]byte, error) {
	for len(p) > 0 {
		n, err := unix.Write(s.fd, p)
		switch {
		case n > 0:
			p = p[n:]
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return p, nil
		default:
			return p, os.NewSyscallError("write", err)
		}
	}
	return nil, nil
}

// flush writes the backlog, and reports whether that has emptied it.
func (s *sock) flush() (emptied bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.backlog) == 0 {
		return false, nil
	}
	rest, err := s.writeLocked(s.backlog)
	if err != nil {
		return false, err
	}
	s.backlog = append(s.backlog[:0:0], rest...) // lets go of the memory
	return len(rest) == 0, s.updateLocked()
}

func (s *sock) hasBacklog() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.backlog) > 0
}

// setReading says whether from wants what comes. While it does not, epoll must not
// be asked for anything: it reports errors and hang-ups even so.
func (s *sock) setReading(reading bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = reading
	return s.updateLocked()
}

func (s *sock) isReading() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reading
}

// updateLocked tells epoll what to wait for.
func (s *sock) updateLocked() error {
	var want uint32
	if s.reading {
		want |= unix.EPOLLIN
	}
	if len(s.backlog) > 0 {
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
	err := unix.EpollCtl(s.loop.epoll, op, s.fd, &unix.EpollEvent{Fd: int32(s.fd), Events: want})
	if err == nil {
		s.events = want
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// Close closes the socket, whatever it has not taken.
func (s *sock) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed, s.backlog = true, nil
	s.loop.forget(s)
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// CloseWrite is called when the direction that writes has ended, and so has no
// backlog.
func (s *sock) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(s.fd, unix.SHUT_WR))
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

// A sock has no use for deadlines, which crypto/tls sets when it says goodbye, and
// nobody asks for its addresses.

func (s *sock) SetDeadline(time.Time) error      { return nil }
func (s *sock) SetReadDeadline(time.Time) error  { return nil }
func (s *sock) SetWriteDeadline(time.Time) error { return nil }
func (s *sock) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *sock) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
