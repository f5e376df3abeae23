package tunnel

import "golang.org/x/sys/unix"

// unsentIn returns how many bytes of ours lie in the socket fd because the peer's
// system has not acknowledged them.
func unsentIn(fd int) int {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NWRITE)
	if err != nil {
		return unknown
	}
	return n
}
