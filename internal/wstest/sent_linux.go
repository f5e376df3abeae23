package wstest

import (
	"errors"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// AwaitSent waits until the other end's kernel has acknowledged what was written to
// conn, a TCP connection: closing may discard what has not left yet. A connection that
// is closed has nothing to wait for.
func AwaitSent(conn net.Conn) error {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	for waiting := 1; err == nil && waiting > 0; runtime.Gosched() {
		controlErr := raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
		if err == nil {
			err = controlErr
		}
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
