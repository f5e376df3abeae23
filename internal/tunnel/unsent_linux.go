package tunnel

import "golang.org/x/sys/unix"

// unsentIn returns how many bytes of ours lie in the socket fd because the peer's
// system has not acknowledged them. The end of the stream counts as one.
func unsentIn(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return unknown
	}
	return n
}
