//go:build !linux

package watchrtcproxy

import (
	"net"
	"testing"
	"time"
)

// sent gives what was written time to leave.
func sent(*testing.T, net.Conn) { time.Sleep(10 * time.Millisecond) }
