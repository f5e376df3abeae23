//go:build unix

package wstest

import "syscall"

func (d Dialer) setBuffers(c syscall.RawConn) (err error) {
	set := func(option, size int, fd uintptr) {
		if size > 0 && err == nil {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, size)
		}
	}
	controlErr := c.Control(func(fd uintptr) {
		set(syscall.SO_RCVBUF, d.ReadBuffer, fd)
		set(syscall.SO_SNDBUF, d.WriteBuffer, fd)
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
