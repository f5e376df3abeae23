package tunnel

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestVanishTimeout: both legs end when their peers are gone, whichever engine has them.
// That the system keeps to it takes over a minute to see, and is seen in e2e.
func TestVanishTimeout(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		for name, leg := range map[string]Leg{"client": s.Tunnel.client, "relay": s.Tunnel.relay} {
			got := -1
			ask := func(fd int) { got, _ = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }
			conn := innermost(leg.(*connLeg).Conn)
			if looped, ok := conn.(*sock); ok {
				ask(looped.fd)
			} else {
				withSocket(conn, ask)
			}
			if want := vanishTimeout.Milliseconds(); int64(got) != want {
				t.Errorf("%s: TCP_USER_TIMEOUT is %d ms, want %d", name, got, want)
			}
		}
		reset(s.client)
		s.Wait()
	})
}
