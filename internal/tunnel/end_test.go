package tunnel

import (
	"io"
	"net"
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

func awaitSettling(t *testing.T, tun *Tunnel) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(time.Millisecond) {
		tun.mu.Lock()
		ended := tun.ended
		tun.mu.Unlock()
		if ended == 2 {
			return
		}
	}
	t.Fatal("the directions have not ended")
}

// The Close frame of a drain that comes in the instant of the end of its direction
// does not follow that end, which would fail and cost what is on the way.
func TestGoAwayBehindHalfClose(t *testing.T) {
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
