package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// What is cut off is over in a moment, also while it settles already, and whatever
// else is told to it meanwhile.
func TestCutOffWhileSettling(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		innermost(s.relay).(*net.TCPConn).SetReadBuffer(8 << 10)
		if _, err := s.client.Write(pattern(60_000)); err != nil {
			t.Fatal(err)
		}
		awaitForwarded(t, &s.toRelay, 60_000)
		reset(s.client)
		awaitSettling(t, s.Tunnel)
		begun := time.Now()
		s.fixture.registry.EndAll()
		s.goAway(reasonDrained)
		s.Tunnel.Wait()
		if took := time.Since(begun); took > linger-time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// So is one whose relay does not even take close_notify, for which crypto/tls would
// wait for 5 s.
func TestCutOffDuringGoodbye(t *testing.T) {
	clientLeg, client := memPair(room)
	below, peer := memPair(room)
	relayLeg, relay := shakeHands(t, below, peer)
	r := newFixture(t, 0)
	tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	below.out.change(func() { below.out.size = len(below.out.data) })
	client.CloseWrite()
	awaitEnded(t, tunnel, 1)
	relay.CloseWrite()
	awaitSettling(t, tunnel)
	begun := time.Now()
	tunnel.cutOff()
	tunnel.Wait()
	if took := time.Since(begun); took > linger-time.Second {
		t.Errorf("it took %v", took)
	}
}

func awaitSettling(t *testing.T, tun *Tunnel) {
	t.Helper()
	awaitEnded(t, tun, 2)
}

// awaitEnded waits until n directions have ended.
func awaitEnded(t *testing.T, tun *Tunnel, n int) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		tun.mu.Lock()
		ended := tun.ended
		tun.mu.Unlock()
		if ended == n {
			return
		}
	}
	t.Fatalf("%d directions have not ended", n)
}

// The Close frame of a drain that comes in the instant of the end of its direction
// does not follow that end, which would fail and cost what is on the way.
func TestGoAwayAfterHalfClose(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		closeWrite(t, s.client)
		if n, err := s.relay.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(n, err)
		}
		// As goAway does when it was first to take the tunnel's lock.
		s.toRelay.goingAway.Store(true)
		if err := s.toRelay.goAway(); err != nil {
			t.Error(err)
		}
		s.relay.Close()
		s.Wait()
	})
}

// A tunnel whose peers have both reset their connections has nothing to wait for,
// although there may be bytes that neither has acknowledged.
func TestBothReset(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		for range 10 {
			s := open()
			pass(t, s.client, s.relay, []byte("a message"))
			pass(t, s.relay, s.client, []byte("an acknowledgement"))
			pass(t, s.client, s.relay, []byte("another"))
			begun := time.Now()
			reset(s.client)
			reset(s.relay)
			s.Wait()
			if took := time.Since(begun); took > linger-time.Second {
				t.Fatalf("it took %v", took)
			}
		}
	})
}

// The reason in the log has neither addresses nor words of a peer's.
func TestEndReason(t *testing.T) {
	reset := os.NewSyscallError("read", syscall.ECONNRESET)
	addr := &net.TCPAddr{IP: net.IPv4(203, 0, 113, 1), Port: 443}
	words := x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"the relay's own words"}}, Host: "relay.example"}
	for _, test := range []struct {
		err  error
		want string
	}{
		{io.EOF, "end of stream"},
		{errOtherEnded, "end of stream"},
		{&net.OpError{Op: "read", Net: "tcp", Addr: addr, Err: reset}, reset.Error()},
		{fmt.Errorf("%w: %w", errWrite, &net.OpError{Op: "write", Net: "tcp", Addr: addr, Err: reset}), reset.Error()},
		{&tls.CertificateVerificationError{Err: words}, "certificate not trusted"},
		{&net.OpError{Op: "local error", Err: &tls.CertificateVerificationError{Err: words}}, "certificate not trusted"},
	} {
		if got := endReason(test.err); got != test.want {
			t.Errorf("%v: %q, want %q", test.err, got, test.want)
		}
	}
}
