package tunnel

import "golang.org/x/sys/unix"

// limitSilenceOf has the system end the connection of the socket fd when vanishTimeout is
// over.
func limitSilenceOf(fd int) {
	// Where it cannot be set, keep-alive alone finds the peer gone, only later.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(vanishTimeout.Milliseconds()))
}
