//go:build !unix

package tunnel

import "net"

// newRawSource: no readiness without a read on this platform.
func newRawSource(*net.TCPConn) source { return nil }
