package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// socketTunnel is a tunnel over real sockets, with the engine that this platform has for
// them, and the peers at its ends.
type socketTunnel struct {
	*Tunnel
	client, relay net.Conn
	fixture       *fixture
}

// openSocketTunnel opens one between the legs of two kinds of connections.
func openSocketTunnel(t *testing.T, client, relay socketKind, pendingClient, pendingRelay []byte) *socketTunnel {
	r := newFixture(t, 0)
	clientLeg, clientPeer := client.connect(t)
	relayLeg, relayPeer := relay.connect(t)
	for _, conn := range []net.Conn{clientLeg, clientPeer, relayLeg, relayPeer} {
		narrow(innermost(conn))
	}
	tunnel := r.lease.Open(Info{},
		ConnLeg(clientLeg, pendingClient, client.setsDeadlines), ConnLeg(relayLeg, pendingRelay, relay.setsDeadlines), 0)
	t.Cleanup(func() { tunnel.Wait() }) // before the peers are closed
	return &socketTunnel{tunnel, clientPeer, relayPeer, r}
}

// socketPairs are kinds of clients and relays that get together.
var socketPairs = [][2]string{
	{"tcp", "tcp"}, {"tls-server", "tls-client"}, {"tls-server", "tcp"}, {"tcp", "tls-client"},
	{"tls-wrapped", "tls-client"}, {"tls-server", "tls-deadlines"}, {"tcp-wrapped", "tcp"}, {"tls-1.2", "tls-1.2"},
	{"tcp-proxied", "tcp"}, {"tls-proxied", "tls-client"}, {"tls-then-wrapped", "tls-in-tls"},
}

func kindNamed(name string) socketKind {
	return socketKinds[slices.IndexFunc(socketKinds, func(k socketKind) bool { return k.name == name })]
}

func eachSocketTunnel(t *testing.T, test func(t *testing.T, open func(pendingClient, pendingRelay []byte) *socketTunnel)) {
	for _, pair := range socketPairs {
		client, relay := kindNamed(pair[0]), kindNamed(pair[1])
		t.Run(client.name+"/"+relay.name, func(t *testing.T) {
			t.Parallel()
			test(t, func(pendingClient, pendingRelay []byte) *socketTunnel {
				return openSocketTunnel(t, client, relay, pendingClient, pendingRelay)
			})
		})
	}
}

// narrow has the kernel keep little on the way, so that writers come to wait.
func narrow(conn net.Conn) {
	c := conn.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	})
	c.SetReadBuffer(128 << 10)
	c.SetWriteBuffer(128 << 10)
}

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}

// reset ends conn abnormally.
func reset(conn net.Conn) {
	tcpConn := innermost(conn).(*net.TCPConn)
	tcpConn.SetLinger(0)
	tcpConn.Close()
}

func (s *socketTunnel) closeBoth(t *testing.T) {
	closeWrite(t, s.client)
	closeWrite(t, s.relay)
}

// pass sends p from one peer to the other.
func pass(t *testing.T, from, to net.Conn, p []byte) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := from.Write(p)
		sent <- err
	}()
	got := make([]byte, len(p))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, p) {
		t.Errorf("%d bytes did not arrive as they were sent: %v", len(p), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestSocketTunnel(t *testing.T) {
	eachSocketTunnel(t, func(t *testing.T, open func(_, _ []byte) *socketTunnel) {
		s := open(nil, nil)
		for _, size := range legSizes {
			pass(t, s.client, s.relay, pattern(size))
			pass(t, s.relay, s.client, pattern(size))
		}
		inParallel(2, func(i int) {
			peers := []net.Conn{s.client, s.relay}
			pass(t, peers[i], peers[1-i], pattern(1<<20))
		})
		s.closeBoth(t)
		if s.Wait() {
			t.Error("an abnormal end")
		}
	})
}

func TestSocketTunnelPending(t *testing.T) {
	for _, size := range []int{1, 1000, 3 * bufferSize} {
		eachSocketTunnel(t, func(t *testing.T, open func(_, _ []byte) *socketTunnel) {
			want := pattern(size)
			s := open(bytes.Clone(want), bytes.Clone(want))
			for _, peer := range []net.Conn{s.client, s.relay} {
				got := make([]byte, size)
				if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("what came after the handshake is lost: %v", err)
				}
			}
			pass(t, s.client, s.relay, pattern(100))
			s.closeBoth(t)
		})
	}
}

// A peer that reads slowly gets everything, also what its tunnel was the last to
// take before the stream ended.
func TestSocketTunnelSlowReader(t *testing.T) {
	const size = 2 << 20
	for _, fromRelay := range []bool{true, false} {
		for _, alreadyHalf := range []bool{true, false} {
			name := map[bool]string{true: "to-client", false: "to-relay"}[fromRelay] +
				map[bool]string{true: "/last", false: "/first"}[alreadyHalf]
			t.Run(name, func(t *testing.T) {
				eachSocketTunnel(t, func(t *testing.T, open func(_, _ []byte) *socketTunnel) {
					s := open(nil, nil)
					from, to := s.client, s.relay
					if fromRelay {
						from, to = to, from
					}
					if alreadyHalf {
						closeWrite(t, to)
						if _, err := from.Read(make([]byte, 1)); err != io.EOF {
							t.Fatalf("the other direction ended with %v", err)
						}
					}
					want := pattern(size)
					go func() {
						from.Write(want)
						closeWrite(t, from)
					}()
					got, err := io.ReadAll(sluggish{to})
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%d bytes of %d arrived: %v", len(got), size, err)
					}
					if !alreadyHalf {
						closeWrite(t, to)
					}
					if s.Wait() {
						t.Error("an abnormal end")
					}
				})
			})
		}
	}
}

// sluggish takes little at a time.
type sluggish struct{ io.Reader }

func (s sluggish) Read(p []byte) (int, error) { return s.Reader.Read(p[:min(len(p), 8000)]) }

// The end of one direction passes; so do the bytes of the other one, after it.
func TestSocketTunnelHalfClose(t *testing.T) {
	eachSocketTunnel(t, func(t *testing.T, open func(_, _ []byte) *socketTunnel) {
		for _, byRelay := range []bool{false, true} {
			s := open(nil, nil)
			from, to := s.client, s.relay
			if byRelay {
				from, to = to, from
			}
			pass(t, from, to, pattern(1000))
			closeWrite(t, from)
			if _, err := to.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the end came as %v", err)
			}
			pass(t, to, from, pattern(100_000))
			closeWrite(t, to)
			if _, err := from.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the other end came as %v", err)
			}
			if s.Wait() {
				t.Error("an abnormal end")
			}
			want := ByClient
			if byRelay {
				want = ByRelay
			}
			if sum := s.fixture.summary(); sum.ClosedBy != want || sum.Reason != "end of stream" {
				t.Errorf("%+v", sum)
			}
		}
	})
}

func TestSocketTunnelReset(t *testing.T) {
	eachSocketTunnel(t, func(t *testing.T, open func(_, _ []byte) *socketTunnel) {
		for _, byRelay := range []bool{false, true} {
			s := open(nil, nil)
			from, to, by := s.client, s.relay, ByClient
			if byRelay {
				from, to, by = to, from, ByRelay
			}
			pass(t, from, to, []byte("hello"))
			reset(from)
			if _, err := to.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side sees %v, want a reset", err)
			}
			if !s.Wait() {
				t.Error("Wait takes a reset for an orderly end")
			}
			if sum := s.fixture.summary(); sum.ClosedBy != by || sum.Reason != "read: connection reset by peer" {
				t.Errorf("%+v", sum)
			}
		}
	})
}

// Close frames meet the strict peers of the tests in memory, over sockets.
func TestSocketTunnelDrain(t *testing.T) {
	eachSocketTunnel(t, func(t *testing.T, open func(_, _ []byte) *socketTunnel) {
		s := open(nil, nil)
		half := encode(true, wstest.Message("hello"))
		if _, err := s.client.Write(half[:8]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s.relay, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		s.fixture.lease.Release()
		client := wstest.NewReader(s.client, false)
		if f, err := client.Next(); err != nil || f.Opcode != opClose || f.Code() != closeGoingAway {
			t.Fatalf("the client gets %s, %v", f, err)
		}
		if _, err := s.client.Write(append(half[8:], encode(true, wstest.CloseFrame(1000))...)); err != nil {
			t.Fatal(err)
		}
		rest := make([]byte, len(half)-8)
		if _, err := io.ReadFull(s.relay, rest); err != nil || !bytes.Equal(rest, half[8:]) {
			t.Fatalf("the message was not finished: %x, %v", rest, err)
		}
		relay := wstest.NewReader(s.relay, true)
		if f, err := relay.Next(); err != nil || f.Opcode != opClose || f.Code() != closeGoingAway {
			t.Fatalf("the relay gets %s, %v", f, err)
		}
		if _, err := s.relay.Write(encode(false, wstest.CloseFrame(1000))); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*wstest.Reader{client, relay} {
			if f, err := r.Next(); err != io.EOF {
				t.Errorf("then comes %s, %v", f, err)
			}
		}
		s.fixture.registry.Wait()
		if sum := s.fixture.summary(); sum.Reason != "drained" || sum.FramesToRelay != 1 || sum.BytesToRelay != uint64(len(half)) {
			t.Errorf("%+v", sum)
		}
	})
}

// A client that takes nothing any more is let go of; its relay is told at once.
func TestSocketTunnelDrainStuck(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a tunnel lingers")
	}
	t.Parallel()
	inParallel(len(socketPairs), func(i int) { // all linger at the same time
		pair := socketPairs[i]
		s := openSocketTunnel(t, kindNamed(pair[0]), kindNamed(pair[1]), nil, nil)
		written := make(chan error, 1)
		go func() {
			var err error
			for frame := encode(false, binaryFrame(pattern(1<<20))); err == nil; {
				_, err = s.relay.Write(frame)
			}
			written <- err
		}()
		if _, err := io.ReadFull(s.client, make([]byte, 1<<20)); err != nil {
			t.Error(pair, err)
			return
		}
		s.fixture.lease.Release()
		if f, err := wstest.NewReader(s.relay, true).Next(); err != nil || f.Code() != closeGoingAway {
			t.Errorf("%v: the relay gets %s, %v", pair, f, err)
		}
		s.fixture.registry.Wait()
		s.Wait()
		<-written
	})
}

// A thousand tunnels leave nothing behind (TestMain looks for goroutines).
func TestSocketTunnelsOpenedAndClosed(t *testing.T) {
	const count = 1000
	r := newFixture(t, 0)
	inParallel(20, func(int) {
		for range count / 20 {
			clientLeg, client := tcpPair(t)
			relayLeg, relay := tcpPair(t)
			r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
			pass(t, client, relay, []byte("hello"))
			pass(t, relay, client, []byte("hello"))
			closeWrite(t, client)
			io.Copy(io.Discard, relay)
			relay.Close()
			io.Copy(io.Discard, client)
			client.Close()
		}
	})
	for range count {
		if s := r.summary(); s.BytesToRelay != 5 || s.BytesToClient != 5 || s.ClosedBy != ByClient {
			t.Errorf("%+v", s)
		}
	}
}
