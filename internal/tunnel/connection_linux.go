package tunnel

import "golang.org/x/sys/unix"

// limitSilenceOf has the system end the connection of the socket fd when vanishTimeout is
// over.
func limitSilenceOf(fd int) {
	// Where it cannot be set, keep-alive alone finds the peer gone, only later.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(vanishTimeout.Milliseconds()))
}

// tcpClose is the state CLOSED, as Linux numbers it (include/net/tcp_states.h).
const tcpClose = 7

// goneIn reports whether the system has given up the connection of the socket fd.
func goneIn(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpClose
}
