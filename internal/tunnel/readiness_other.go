//go:build !unix

package tunnel

import "net"

// readiness: there is none without a read on this platform.
type readiness struct{}

func (readiness) init(*net.TCPConn) bool { return false }
func (readiness) wait() error            { panic("unreachable: init has failed") }
