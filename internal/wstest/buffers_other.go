//go:build !unix

package wstest

import "syscall"

// setBuffers leaves the sizes to the system.
func (Dialer) setBuffers(syscall.RawConn) error { return nil }
