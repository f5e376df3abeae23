//go:build unix

package http1

import (
	"cmp"
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
	ready, err := q.poll(unix.POLLIN)
	return !ready && err == nil
}

// takes reports whether a few bytes can be written without waiting.
func (q quietness) takes() bool {
	ready, err := q.poll(unix.POLLOUT)
	return ready && err == nil
}

func (q quietness) poll(events int16) (ready bool, err error) {
	if q.conn == nil {
		return false, net.ErrClosed
	}
	failed := q.conn.Control(func(fd uintptr) {
		var n int
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 0)
		ready = n > 0
	})
	return ready, cmp.Or(failed, err)
}
