//go:build unix

package integration_test

import "syscall"

// limitBacklog sets how many connections may wait to be accepted from fd.
func limitBacklog(fd uintptr, n int) error { return syscall.Listen(int(fd), n) }
