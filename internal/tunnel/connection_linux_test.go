package tunnel

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

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

// slowWriter is told of a reset before its reader is, and takes its time to say so.
type slowWriter struct {
	*net.TCPConn
	told chan struct{} // closed when a write has failed
}

func (c slowWriter) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	if err != nil {
		close(c.told)
		time.Sleep(50 * time.Millisecond)
	}
	return n, err
}

func (c slowWriter) Read(p []byte) (int, error) {
	<-c.told
	return c.TCPConn.Read(p)
}

// The system tells of a reset once. When the writer has been told, reading gives an end in
// order, which must not be passed on before the writer has said what it was. An end in
// order stays one, though the peer's reset comes in reply to what was sent to it later.
func TestResetToldToTheWriter(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(net.Conn)
		want error
	}{
		"reset":                    {reset, syscall.ECONNRESET},
		"end in order, then reset": {func(c net.Conn) { c.Close() }, nil},
		"gone without a word":      {func(net.Conn) {}, syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newFixture(t, 0)
			clientLeg, client := tcpPair(t)
			relayLeg, relay := tcpPair(t)
			conn := slowWriter{relayLeg.(*net.TCPConn), make(chan struct{})}
			narrow(relayLeg)
			narrow(relay)
			tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(conn, nil, false), 0)
			// Not after vanishTimeout, but soon, the system gives up a relay that takes nothing.
			withSocket(relayLeg, func(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 50) })
			test.end(relay)
			for stopped := false; !stopped; {
				client.SetWriteDeadline(time.Now().Add(time.Millisecond))
				client.Write(make([]byte, 64<<10))
				select {
				case <-conn.told:
					stopped = true
				case <-time.After(time.Millisecond):
				}
			}
			if _, err := io.ReadAll(client); !errors.Is(err, test.want) {
				t.Errorf("the client's stream ended with %v, want %v", err, test.want)
			}
			client.Close()
			tunnel.Wait()
		})
	}
}
