//go:build unix

package tunnel

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// readiness waits until a TCP connection can be read from without blocking, at
// the cost of no buffer and little stack.
type readiness struct {
	conn  syscall.RawConn
	check func(fd uintptr) bool // bound once so that no wait allocates
	woken bool
	fds   [1]unix.PollFd // here so that no wait allocates
}

func (r *readiness) init(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	r.conn, r.check = raw, r.isReady
	return err == nil
}

func (r *readiness) wait() error {
	r.woken = false
	return r.conn.Read(r.check)
}

// isReady looks at the socket first, since an edge of the runtime's poller may
// have gone by, and believes the poller when that has it called again.
func (r *readiness) isReady(fd uintptr) bool {
	if r.woken {
		return true
	}
	r.woken = true
	r.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	for {
		n, err := unix.Poll(r.fds[:], 0)
		if err != unix.EINTR {
			return n > 0 || err != nil // a broken socket is ready to say so
		}
	}
}
