package watchrtcproxy

import (
	"net"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// sent waits until the other end's kernel has acknowledged what was written: closing
// may discard what has not left yet.
func sent(t *testing.T, conn net.Conn) {
	raw, err := rawest(conn).(*net.TCPConn).SyscallConn()
	for waiting := 1; err == nil && waiting > 0; runtime.Gosched() {
		controlErr := raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
		if err == nil {
			err = controlErr
		}
	}
	if err != nil {
		t.Error(err)
	}
}
