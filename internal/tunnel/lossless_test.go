package tunnel

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// engineTest is a test over one engine, with or without TLS.
type engineTest func(t *testing.T, secure bool, open func() *socketTunnel)

// eachEngine runs test over both engines, TCP and TLS.
func eachEngine(t *testing.T, test engineTest) {
	for name, run := range onEngines(test) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t)
		})
	}
}

// eachEngineAtOnce is for a test that waits until linger is over: all run at the same
// time, however few processors there are.
func eachEngineAtOnce(t *testing.T, test engineTest) {
	if testing.Short() {
		t.Skip("takes as long as a tunnel lingers")
	}
	t.Parallel()
	var running sync.WaitGroup
	for name, run := range onEngines(test) {
		running.Go(func() { t.Run(name, run) })
	}
	running.Wait()
}

func onEngines(test engineTest) iter.Seq2[string, func(*testing.T)] {
	return func(yield func(string, func(*testing.T)) bool) {
		for _, kind := range engineKinds {
			for name, secure := range map[string]bool{kind.name + "/tcp": false, kind.name + "/tls": true} {
				if !yield(name, func(t *testing.T) { test(t, secure, kind.opener(t, secure)) }) {
					return
				}
			}
		}
	}
}

// opener returns what opens tunnels.
func (kind engineKind) opener(t *testing.T, secure bool) func() *socketTunnel {
	connect := func() (leg, peer net.Conn) {
		leg, peer = tcpPair(t)
		leg = kind.wrap(leg)
		if secure {
			return shakeHands(t, leg, peer)
		}
		return leg, peer
	}
	return func() *socketTunnel {
		r := newFixture(t, 0)
		clientLeg, client := connect()
		relayLeg, relay := connect()
		tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
		if _, isGoroutines := tunnel.engine.(*goroutines); isGoroutines != (kind.name == Goroutines || !loopsWork()) {
			t.Fatalf("the engine is a %T", tunnel.engine)
		}
		return &socketTunnel{tunnel, client, relay, r}
	}
}

// readSlowly reads to the end, a while after it could have.
func readSlowly(conn net.Conn) ([]byte, error) {
	time.Sleep(20 * time.Millisecond)
	return io.ReadAll(sluggish{conn})
}

// abnormalEnd reports whether a peer that reads err at the end of what it got can
// tell that the end was none in order. crypto/tls takes a missing close_notify for
// an end in order.
func abnormalEnd(err error, secure bool) bool {
	return errors.Is(err, syscall.ECONNRESET) || secure && (err == nil || errors.Is(err, io.ErrUnexpectedEOF))
}

// A client that closes in order while messages for it are on the way resets its
// connection without wanting to. What it sent arrives all the same, and in order.
func TestCloseWithUnreadInput(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		narrow(innermost(s.relay))
		want := pattern(300_000)
		if _, err := s.client.Write(want); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, s.client)
		socket := innermost(s.client).(*net.TCPConn)
		socket.CloseWrite()
		awaitAcknowledged(t, socket)
		s.relay.Write([]byte("an acknowledgement"))
		innermost(s.client).Read(make([]byte, 1)) // it has come, and most of it stays unread
		socket.Close()
		s.relay.Write([]byte("another"))
		got, err := readSlowly(s.relay)
		if !bytes.Equal(got, want) || err != nil {
			t.Errorf("%d bytes of %d arrived, then %v", len(got), len(want), err)
		}
		s.relay.Close()
		if s.Wait() {
			t.Error("Wait takes it for an abnormal end")
		}
		if sum := s.fixture.summary(); sum.BytesToRelay != uint64(len(want)) || sum.CutToRelay != 0 {
			t.Errorf("%+v", sum)
		}
	})
}

// awaitAcknowledged waits until the other end's system has all that conn sent.
func awaitAcknowledged(t *testing.T, conn net.Conn) {
	t.Helper()
	if !unsentKnown {
		t.Skip("the system does not tell what it has not delivered")
	}
	for until := time.Now().Add(10 * time.Second); unsentOf(conn) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d bytes have not come", unsentOf(conn))
		}
	}
}

// A Close frame and all before it arrive although a reset is right after.
func TestCloseFrameThenReset(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		for range 5 {
			s := open()
			// Much of it is still to be sent when the reset comes.
			innermost(s.relay).(*net.TCPConn).SetReadBuffer(8 << 10)
			want := append(encode(true, binaryFrame(pattern(60_000))), encode(true, wstest.CloseFrame(4000))...)
			first := len(want) / 2
			if _, err := s.client.Write(want[:first]); err != nil {
				t.Fatal(err)
			}
			if _, err := s.client.Write(want[first:]); err != nil {
				t.Fatal(err)
			}
			awaitForwarded(t, &s.toRelay, len(want))
			reset(s.client)
			got, err := readSlowly(s.relay)
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d arrived", len(got), len(want))
			}
			if !abnormalEnd(err, secure) {
				t.Errorf("the end was %v", err)
			}
			s.relay.Close()
			if !s.Wait() {
				t.Error("Wait takes a reset for an orderly end")
			}
			if sum := s.fixture.summary(); sum.BytesToRelay != uint64(len(want)) || sum.CloseCode != 4000 || sum.ClosedBy != ByClient {
				t.Errorf("%+v", sum)
			}
		}
	})
}

// awaitForwarded waits until d has taken n bytes.
func awaitForwarded(t *testing.T, d *direction, n int) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); d.bytes.Load() < uint64(n); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d bytes of %d were taken", d.bytes.Load(), n)
		}
	}
}

// What a relay sent before its reset arrives, however slowly the client reads.
func TestDownloadThenReset(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		want := pattern(200_000)
		if _, err := s.relay.Write(want); err != nil {
			t.Fatal(err)
		}
		awaitForwarded(t, &s.toClient, len(want))
		reset(s.relay)
		got, err := readSlowly(s.client)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d arrived", len(got), len(want))
		}
		if !abnormalEnd(err, secure) {
			t.Errorf("the end was %v", err)
		}
		s.client.Close()
		s.Wait()
		if sum := s.fixture.summary(); sum.BytesToClient != uint64(len(want)) || sum.CutToClient != 0 || sum.ClosedBy != ByRelay {
			t.Errorf("%+v", sum)
		}
	})
}

// A relay sends its last words and resets while the client still writes: writing
// fails first, and what is there to be read comes nevertheless. It is an abnormal
// end, although reading then looks like an orderly one.
func TestLastWordsAfterFailedWrite(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		failed := make(chan error, 1)
		go func() {
			for p := make([]byte, 1000); ; {
				if _, err := s.client.Write(p); err != nil {
					failed <- err
					return
				}
			}
		}()
		if _, err := io.ReadFull(s.relay, make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
		want := pattern(50_000)
		s.relay.Write(want)
		reset(s.relay)
		got, err := readSlowly(s.client)
		werr := <-failed // A reset is told once, to the reader or the writer.
		told := errors.Is(err, syscall.ECONNRESET) || errors.Is(werr, syscall.ECONNRESET)
		if !secure && !told {
			t.Errorf("the end was %v and %v", err, werr)
		}
		// What the relay's kernel had not sent yet is gone with its reset.
		if !bytes.HasPrefix(want, got) {
			t.Errorf("%d bytes arrived, and others than were sent", len(got))
		}
		s.client.Close()
		if !s.Wait() {
			t.Error("Wait takes a reset for an orderly end")
		}
		if sum := s.fixture.summary(); sum.BytesToClient != uint64(len(got)) && sum.CutToClient == 0 {
			t.Errorf("the client got %d bytes: %+v", len(got), sum)
		}
	})
}

// What a destination does not take is logged as cut, and not as carried.
func TestCutIsCounted(t *testing.T) {
	if !unsentKnown {
		t.Skip("the system does not tell what it has not delivered")
	}
	eachEngineAtOnce(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		narrow(innermost(s.relay))
		var sent int
		for {
			s.client.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, err := s.client.Write(make([]byte, 16<<10))
			sent += n
			if err != nil {
				break // nobody takes any more
			}
		}
		awaitForwarded(t, &s.toRelay, 1)
		s.fixture.lease.Release()
		s.Tunnel.Wait()
		sum := s.fixture.summary()
		got, _ := io.ReadAll(s.relay)
		if sum.CutToRelay == 0 || sum.BytesToRelay == 0 || sum.BytesToRelay+sum.CutToRelay > uint64(sent) {
			t.Errorf("of %d bytes: %+v", sent, sum)
		}
		// TLS adds some 30 bytes to each record, and the peer's kernel may have
		// what it has not acknowledged yet.
		if slack := 64<<10 + sent/500; len(got) < int(sum.BytesToRelay)-slack {
			t.Errorf("the relay got %d bytes: %+v", len(got), sum)
		}
	})
}

// A peer that has answered our Close frame may say more. That must not cost the
// others what is on the way to it.
func TestDrainedPeerThatSaysMore(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		want := encode(false, binaryFrame(pattern(150_000)))
		if _, err := s.relay.Write(want); err != nil {
			t.Fatal(err)
		}
		awaitForwarded(t, &s.toClient, len(want))
		s.fixture.lease.Release()
		if f, err := wstest.NewReader(s.relay, true).Next(); err != nil || f.Code() != closeGoingAway {
			t.Fatalf("the relay gets %s, %v", f, err)
		}
		s.relay.Write(encode(false, wstest.CloseFrame(1000)))
		s.client.Write(append(encode(true, wstest.CloseFrame(1000)), pattern(5000)...))
		got, err := readSlowly(s.client)
		if want = append(want, encode(false, wstest.CloseFrame(closeGoingAway))...); !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d arrived, and %v", len(got), len(want), err)
		}
		s.client.Close()
		s.relay.Close()
		s.Wait()
	})
}

// The stream of a tunnel that is drained ends in time, whatever was left.
func TestDrainIsBounded(t *testing.T) {
	eachEngineAtOnce(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		go func() {
			for p := make([]byte, 64<<10); ; {
				if _, err := s.relay.Write(p); err != nil {
					return
				}
			}
		}()
		if _, err := io.ReadFull(s.client, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, s.client)
		time.Sleep(2 * time.Second) // it is ending by itself
		begun := time.Now()
		s.fixture.lease.Release()
		s.Tunnel.Wait()
		if took := time.Since(begun); took > linger+2*time.Second {
			t.Errorf("the drain took %v", took)
		}
	})
}

// The engines say in few words why a tunnel ended.
func TestReasons(t *testing.T) {
	eachEngine(t, func(t *testing.T, secure bool, open func() *socketTunnel) {
		s := open()
		pass(t, s.client, s.relay, []byte("hello"))
		reset(s.relay)
		io.Copy(io.Discard, s.client)
		s.client.Close()
		s.Wait()
		sum := s.fixture.summary()
		if sum.ClosedBy != ByRelay || !strings.HasSuffix(sum.Reason, "connection reset by peer") {
			t.Errorf("%+v", sum)
		}
	})
}
