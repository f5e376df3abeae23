//go:build unix

package limits

import (
	"math"
	"syscall"
)

// OpenFiles returns how many files the process may have open (RLIMIT_NOFILE), zero for
// any number. Go raises the soft limit to the hard one when it starts.
func OpenFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	if files := uint64(limit.Cur); files <= math.MaxInt32 {
		return int(files)
	}
	return 0
}
