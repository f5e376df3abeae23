package tunnel

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// loopTunnel is a tunnel over real sockets, in an event loop, and the peers at its ends.
type loopTunnel struct {
	*Tunnel
	client, relay net.Conn
	summaries     chan Summary
}

func (l *loopTunnel) loop() *loop { return l.engine.(*pair).loop }

// loopKinds are the pairs of legs that an event loop carries.
var loopKinds = []struct {
	name          string
	client, relay bool // TLS?
}{
	{"tls-tls", true, true}, {"tcp-tls", false, true}, {"tls-tcp", true, false}, {"tcp-tcp", false, false},
}

func eachLoopKind(t *testing.T, test func(t *testing.T, l *loopTunnel)) {
	for _, kind := range loopKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			test(t, openLoopTunnel(t, newLoopFixture(t), kind.client, kind.relay))
		})
	}
}

func newLoopFixture(t *testing.T) *fixture { return newFixture(t, 0) }

func openLoopTunnel(t *testing.T, r *fixture, clientTLS, relayTLS bool) *loopTunnel {
	t.Helper()
	connect := func(secure bool) (leg, peer net.Conn) {
		leg, peer = tcpPair(t)
		if secure {
			return shakeHands(t, leg, peer)
		}
		return leg, peer
	}
	clientLeg, client := connect(clientTLS)
	relayLeg, relay := connect(relayTLS)
	tun := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), time.Hour)
	if _, ok := tun.engine.(*pair); !ok {
		t.Fatal("the tunnel is in no event loop")
	}
	return &loopTunnel{tun, client, relay, r.summaries}
}

// transfer writes p to one end while it reads as much from the other.
func transfer(t *testing.T, from, to net.Conn, p []byte) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		_, err := from.Write(p)
		failed <- err
	}()
	got := make([]byte, len(p))
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatalf("of %d bytes: %v", len(p), err)
	}
	if !bytes.Equal(got, p) {
		t.Fatalf("%d bytes have changed", len(p))
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// tearDown ends the tunnel from the client's side and checks what it summed up to.
func (l *loopTunnel) tearDown(t *testing.T, toRelay, toClient int) {
	t.Helper()
	l.client.Close()
	if _, err := io.Copy(io.Discard, l.relay); err != nil {
		t.Error("the relay's leg did not end in order:", err)
	}
	l.relay.Close()
	s := <-l.summaries
	if s.BytesToRelay != uint64(toRelay) || s.BytesToClient != uint64(toClient) {
		t.Errorf("%+v, want %d and %d bytes", s, toRelay, toClient)
	}
	l.Wait()
}

func TestLoopCarriesBothWays(t *testing.T) {
	eachLoopKind(t, func(t *testing.T, l *loopTunnel) {
		total := 0
		for _, size := range []int{1, 2, 63, 64, 65, 4096, bufferSize - 1, bufferSize, bufferSize + 1, 3*bufferSize + 7} {
			transfer(t, l.client, l.relay, pattern(size))
			transfer(t, l.relay, l.client, pattern(size))
			total += size
		}
		l.tearDown(t, total, total)
	})
}

// Both ways at once, with more than the sockets between take.
func TestLoopCarriesMuchAtOnce(t *testing.T) {
	eachLoopKind(t, func(t *testing.T, l *loopTunnel) {
		p := pattern(16 << 20)
		var both sync.WaitGroup
		both.Go(func() { transfer(t, l.client, l.relay, p) })
		both.Go(func() { transfer(t, l.relay, l.client, p) })
		both.Wait()
		l.tearDown(t, len(p), len(p))
	})
}

// A peer that does not read costs its own tunnel its progress, and nobody else.
func TestLoopWaitsForNobody(t *testing.T) {
	r := newLoopFixture(t)
	stuck, other := openLoopTunnel(t, r, true, true), openLoopTunnel(t, r, true, true)
	for stuck.loop() != other.loop() {
		other = openLoopTunnel(t, r, true, true) // the next one may share the loop
		t.Cleanup(func() { other.client.Close() })
	}
	p := pattern(32 << 20)
	sent := make(chan error, 1)
	go func() {
		_, err := stuck.client.Write(p)
		sent <- err
	}()
	for range 100 {
		transfer(t, other.client, other.relay, pattern(5000))
		transfer(t, other.relay, other.client, pattern(50))
	}
	select {
	case err := <-sent:
		t.Fatalf("32 MiB found room between the peers: %v", err)
	default:
	}
	got := make([]byte, len(p))
	if _, err := io.ReadFull(stuck.relay, got); err != nil || !bytes.Equal(got, p) {
		t.Fatal("what was held back has changed:", err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// The loop gives a connection its input buffer only while it has input.
func TestLoopHoldsNoBuffers(t *testing.T) {
	r := newLoopFixture(t)
	l := openLoopTunnel(t, r, true, true)
	transfer(t, l.client, l.relay, pattern(100_000))
	transfer(t, l.relay, l.client, pattern(100_000))
	idle := make(chan struct{})
	l.loop().post(func() {
		defer close(idle)
		for _, leg := range []Leg{l.Tunnel.client, l.Tunnel.relay} {
			conn := leg.(*connLeg).Conn.(*tls.Conn)
			s := (*netConnOf(conn)).(*sock)
			if raw, input := rawInputOf(conn).Cap(), inputOf(conn).Size(); raw > 0 || input > 0 || s.record != nil || s.backlog != nil {
				t.Errorf("an idle leg holds %d bytes of ciphertext, %d of plaintext, a record: %v, a backlog of %d",
					raw, input, s.record != nil, cap(s.backlog))
			}
		}
	})
	<-idle
	l.tearDown(t, 100_000, 100_000)
}

// Records that come in pieces, many of them at the same time.
func TestLoopChoppedRecords(t *testing.T) {
	r := newLoopFixture(t)
	var all sync.WaitGroup
	for i := range 8 {
		leg, peer := tcpPair(t)
		server, client := shakeHands(t, leg, chopping{peer})
		relayLeg, relay := tcpPair(t)
		r.lease.Open(Info{}, ConnLeg(server, nil, false), ConnLeg(relayLeg, nil, false), 0)
		all.Go(func() { transfer(t, client, relay, pattern(20_000+i)) })
	}
	all.Wait()
}

// chopping writes in small pieces.
type chopping struct{ net.Conn }

func (c chopping) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i += 700 {
		if _, err := c.Conn.Write(p[i:min(i+700, len(p))]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestLoopSendsPendingFirst(t *testing.T) {
	r := newLoopFixture(t)
	clientLeg, client := tcpPair(t)
	relayLeg, relay := tcpPair(t)
	r.lease.Open(Info{}, ConnLeg(clientLeg, []byte("early "), false), ConnLeg(relayLeg, []byte("greeting "), false), 0)
	for _, way := range []struct {
		from, to net.Conn
		want     string
	}{{client, relay, "early bird"}, {relay, client, "greeting bird"}} {
		if _, err := way.from.Write([]byte("bird")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(way.want))
		if _, err := io.ReadFull(way.to, got); err != nil || string(got) != way.want {
			t.Errorf("%q, %v; want %q", got, err, way.want)
		}
	}
}

// TestLoopUnderPROXYProtocol: what a listener's wrapper has read together with the
// header comes first, and then the wrapper is out of the way.
func TestLoopUnderPROXYProtocol(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "tcp", true: "tls"}[secure], func(t *testing.T) {
			raw, peer := tcpPair(t)
			sender := &gathering{Conn: peer}
			leg, client := raw, net.Conn(sender)
			if secure {
				leg, client = shakeHands(t, raw, sender)
			}
			sender.WriteString(proxyHeader)
			sender.gathers = true
			if _, err := client.Write([]byte("early ")); err != nil {
				t.Fatal(err)
			}
			sender.gathers = false
			if _, err := sender.WriteTo(peer); err != nil {
				t.Fatal(err)
			}
			wrapper := proxyproto.NewConn(raw)
			if wrapper.ProxyHeader() == nil {
				t.Fatal("no PROXY header")
			}
			if secure {
				*netConnOf(leg.(*tls.Conn)) = wrapper
			} else {
				leg = wrapper
			}

			r := newLoopFixture(t)
			relayLeg, relay := tcpPair(t)
			tun := r.lease.Open(Info{}, ConnLeg(leg, nil, false), ConnLeg(relayLeg, nil, false), time.Hour)
			if _, ok := tun.engine.(*pair); !ok {
				t.Fatal("the tunnel is in no event loop")
			}
			if _, err := client.Write([]byte("bird")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len("early bird"))
			if _, err := io.ReadFull(relay, got); err != nil || string(got) != "early bird" {
				t.Errorf("%q, %v", got, err)
			}
			transfer(t, relay, client, []byte("answer"))
		})
	}
}

// gathering keeps what is written, for WriteTo, while it gathers.
type gathering struct {
	net.Conn
	bytes.Buffer
	gathers bool
}

func (g *gathering) Read(p []byte) (int, error) { return g.Conn.Read(p) }

func (g *gathering) Write(p []byte) (int, error) {
	if g.gathers {
		return g.Buffer.Write(p)
	}
	return g.Conn.Write(p)
}

func TestLoopHalfClose(t *testing.T) {
	eachLoopKind(t, func(t *testing.T, l *loopTunnel) {
		if err := l.client.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := l.relay.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the relay read %d bytes and %v, want EOF", n, err)
		}
		p := pattern(100_000)
		go func() {
			l.relay.Write(p)
			l.relay.Close()
		}()
		got, err := io.ReadAll(l.client)
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("after its own end the client got %d bytes and %v", len(got), err)
		}
		<-l.summaries
	})
}

func TestLoopPassesResetsOn(t *testing.T) {
	eachLoopKind(t, func(t *testing.T, l *loopTunnel) {
		innermost(l.relay).(*net.TCPConn).SetLinger(0)
		innermost(l.relay).Close()
		_, err := l.client.Read(make([]byte, 1))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v, want a reset", err)
		}
		if s := <-l.summaries; s.ClosedBy != ByRelay || s.CloseCode != closeAbnormal {
			t.Errorf("closed by %s with %d (%s)", s.ClosedBy, s.CloseCode, s.Reason)
		}
	})
}

// Loops end with their last tunnel and begin again with the next.
func TestLoopsEnd(t *testing.T) {
	for range 20 {
		r := newLoopFixture(t)
		var all sync.WaitGroup
		for range 10 {
			l := openLoopTunnel(t, r, false, false)
			all.Go(func() {
				transfer(t, l.client, l.relay, pattern(100))
				l.relay.Close()
				l.client.Close()
				l.Wait()
			})
		}
		all.Wait()
	}
}

// A message costs no allocation but the one that crypto/tls makes for each record
// that it reads, here and in the peer.
func TestLoopDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newLoopFixture(t)
	l := openLoopTunnel(t, r, true, true)
	message, got := encode(true, wstest.Frame{Fin: true, Opcode: wstest.Text, Payload: pattern(4096)}), make([]byte, 8192)
	roundTrip := func() {
		if _, err := l.client.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(l.relay, got[:len(message)]); err != nil {
			t.Fatal(err)
		}
	}
	roundTrip()
	if n := testing.AllocsPerRun(500, roundTrip); n > 2 {
		t.Errorf("a message costs %v allocations", n)
	}
	l.tearDown(t, 502*len(message), 0)
}

// The last piece and the end come out of crypto/tls together with TLS 1.2; the end
// must wait for a relay that is slow to take the piece.
func TestLoopEndsAfterBacklog(t *testing.T) {
	r := newLoopFixture(t)
	leg, peer := tcpPair(t)
	server, client := shakeHandsAs(t, leg, peer, &tls.Config{MaxVersion: tls.VersionTLS12})
	relayLeg, relay := tcpPair(t)
	relayLeg.(*net.TCPConn).SetWriteBuffer(4096)
	r.lease.Open(Info{}, ConnLeg(server, nil, false), ConnLeg(relayLeg, nil, false), 0)
	p := pattern(8 << 20)
	go func() {
		client.Write(p)
		client.Close()
	}()
	got, err := io.ReadAll(relay)
	if err != nil || !bytes.Equal(got, p) {
		t.Errorf("the relay got %d bytes of %d, and %v", len(got), len(p), err)
	}
}
