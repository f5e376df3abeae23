//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawSource waits until a TCP connection is readable and only then takes a
// buffer to read into.
type rawSource struct {
	conn syscall.RawConn
	read func(fd uintptr) bool // readOnce, bound once so that no read allocates

	// The outcome of readOnce, for receive alone.
	buf *buffer
	n   int
	err error
}

func newRawSource(conn *net.TCPConn) source {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	s := &rawSource{conn: raw}
	s.read = s.readOnce
	return s
}

func (s *rawSource) receive() (*buffer, int, error) {
	s.buf, s.n, s.err = nil, 0, nil
	if err := s.conn.Read(s.read); err != nil {
		return nil, 0, err
	}
	buf := s.buf
	s.buf = nil
	return buf, s.n, s.err
}

// readOnce reads without blocking; false asks to be called again when the
// connection is readable.
func (s *rawSource) readOnce(fd uintptr) bool {
	buf := takeBuffer()
	n, err := syscall.Read(int(fd), buf[:])
	switch {
	case n > 0:
		s.buf, s.n = buf, n
		return true
	case err == syscall.EAGAIN, err == syscall.EINTR:
		giveBuffer(buf)
		return err == syscall.EINTR && s.readOnce(fd)
	case err != nil:
		s.err = os.NewSyscallError("read", err)
	default:
		s.err = io.EOF
	}
	giveBuffer(buf)
	return true
}
