//go:build unix

package http1

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supported: an idle connection can be looked at before it is used again, so that
// one which the server has closed does not cost a request.
const Supported = true

// quietness looks at a socket without reading from it.
type quietness struct{ conn syscall.RawConn }

// newQuietness returns one that never finds quiet where conn has no socket.
func newQuietness(conn net.Conn) quietness {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return quietness{}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return quietness{}
	}
	return quietness{raw}
}

func (q quietness) check() bool {
	if q.conn == nil {
		return false
	}
	quiet := false
	err := q.conn.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		quiet = n == 0 && err == nil
	})
	return err == nil && quiet
}
