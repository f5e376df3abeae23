//go:build !linux

package wstest

import (
	"net"
	"time"
)

// AwaitSent gives what was written time to leave: only Linux tells.
func AwaitSent(net.Conn) error {
	time.Sleep(10 * time.Millisecond)
	return nil
}
