package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

func TestTunnelCarriesBothWays(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.open()
		frames := []wstest.Frame{
			wstest.Message(""), wstest.Message("hello"), ping(),
			part(wstest.Binary, strings.Repeat("x", 126)), ping(), part(wstest.Continuation, ""),
			{Fin: true, Opcode: wstest.Continuation, Payload: pattern(70_000)},
			binaryFrame(pattern(3 << 20)),
		}
		inParallel(2, func(i int) {
			from, to := c.client, c.relay
			if i == 1 {
				from, to = to, from
			}
			go from.send(frames...)
			to.expect(frames...)
		})
		c.playBoth()
		c.client.send(wstest.CloseFrame(1000))
		s := r.summary()
		sent := uint64(len(encode(true, append(frames, wstest.CloseFrame(1000))...)))
		received := uint64(len(encode(false, append(frames, wstest.CloseFrame(1000))...)))
		if s.BytesToRelay != sent || s.BytesToClient != received {
			t.Errorf("%d bytes to the relay and %d to the client, want %d and %d",
				s.BytesToRelay, s.BytesToClient, sent, received)
		}
		if want := uint64(len(frames) + 1); s.FramesToRelay != want || s.FramesToClient != want {
			t.Errorf("%d frames to the relay and %d to the client, want %d", s.FramesToRelay, s.FramesToClient, want)
		}
		if s.Info != c.Info || s.ID == 0 {
			t.Errorf("whose summary is it? %+v", s)
		}
	})
}

// Bytes go on at once, whatever they are: half a header, half a frame, no frame at
// all.
func TestTunnelHoldsNothingBack(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.open()
		for _, p := range []byte(encode(true, wstest.Message("hello"))) {
			c.client.sendRaw([]byte{p})
			got := make([]byte, 2)
			if n, err := c.relay.Read(got); err != nil || n != 1 || got[0] != p {
				t.Fatalf("received %d bytes, %x, %v", n, got, err)
			}
		}
		garbage := bytes.Repeat([]byte{0xff}, 1000)
		c.relay.sendRaw(garbage)
		got := make([]byte, len(garbage))
		if _, err := io.ReadFull(c.client, got); err != nil || !bytes.Equal(got, garbage) {
			t.Errorf("garbage did not pass: %v", err)
		}
		c.playBoth()
		c.client.CloseWrite()
		r.summary()
	})
}

var tunnelEnds = []struct {
	name                string
	act                 func(r *fixture, c *peered)
	by                  string
	code                int
	reason              string
	clientEnd, relayEnd error
}{
	{
		"Close by the client",
		func(r *fixture, c *peered) { c.client.send(wstest.CloseFrame(1000)) },
		ByClient, 1000, "close frame", io.EOF, io.EOF,
	},
	{
		"Close by the client, without a code",
		func(r *fixture, c *peered) { c.client.send(wstest.CloseFrame(0)) },
		ByClient, closeNoStatus, "close frame", io.EOF, io.EOF,
	},
	{
		"Close by the client, with the code 0",
		func(r *fixture, c *peered) {
			c.client.send(wstest.Frame{Fin: true, Opcode: opClose, Payload: []byte{0, 0}})
		},
		ByClient, closeNoStatus, "close frame", io.EOF, io.EOF,
	},
	{
		"Close by the relay",
		func(r *fixture, c *peered) { c.relay.send(wstest.CloseFrame(1011)) },
		ByRelay, 1011, "close frame", io.EOF, io.EOF,
	},
	{
		"Close by the client, then a reset",
		func(r *fixture, c *peered) {
			c.relay.mute = true
			c.client.send(wstest.CloseFrame(4000))
			synctest.Wait()
			c.client.abort()
		},
		ByClient, 4000, "close frame", errHere, syscall.ECONNRESET,
	},
	{
		"end by the client",
		func(r *fixture, c *peered) { c.client.CloseWrite() },
		ByClient, closeAbnormal, "end of stream", io.EOF, io.EOF,
	},
	{
		"end by the relay",
		func(r *fixture, c *peered) { c.relay.CloseWrite() },
		ByRelay, closeAbnormal, "end of stream", io.EOF, io.EOF,
	},
	{
		"end by the client inside a frame",
		func(r *fixture, c *peered) {
			c.client.sendRaw(encode(true, wstest.Message("hello"))[:8])
			c.client.CloseWrite()
		},
		ByClient, closeAbnormal, "end of stream", io.EOF, io.ErrUnexpectedEOF,
	},
	{
		"reset by the client",
		func(r *fixture, c *peered) { c.client.abort() },
		ByClient, closeAbnormal, syscall.ECONNRESET.Error(), errHere, syscall.ECONNRESET,
	},
	{
		"reset by the relay",
		func(r *fixture, c *peered) { c.relay.abort() },
		ByRelay, closeAbnormal, syscall.ECONNRESET.Error(), syscall.ECONNRESET, errHere,
	},
	{
		"the relay takes no more",
		func(r *fixture, c *peered) {
			c.relay.mute = true
			c.relay.takeNoMore()
			c.client.send(wstest.Message("hello"))
		},
		ByRelay, closeAbnormal, "writing: " + syscall.EPIPE.Error(), syscall.ECONNRESET, errHere,
	},
	{
		"the client takes no more",
		func(r *fixture, c *peered) {
			c.client.mute = true
			c.client.takeNoMore()
			c.relay.send(wstest.Message("hello"))
		},
		ByClient, closeAbnormal, "writing: " + syscall.EPIPE.Error(), errHere, syscall.ECONNRESET,
	},
	{
		"drained",
		func(r *fixture, c *peered) { r.lease.Release() },
		ByProxy, closeGoingAway, "drained", io.EOF, io.EOF,
	},
	{
		"idle",
		func(r *fixture, c *peered) { time.Sleep(time.Minute) },
		ByProxy, closeGoingAway, "idle", io.EOF, io.EOF,
	},
	{
		"drained after the client's Close",
		func(r *fixture, c *peered) {
			c.relay.mute = true
			c.client.send(wstest.CloseFrame(3000))
			synctest.Wait()
			r.lease.Release()
		},
		ByClient, 3000, "close frame", io.EOF, io.EOF,
	},
}

// errHere: the peer has ended its stream itself.
var errHere = errors.New("use of closed connection")

func TestTunnelEnds(t *testing.T) {
	for _, c := range tunnelEnds {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, 0, func(r *fixture) {
				tunnel := r.openIdle(time.Minute)
				tunnel.playBoth()
				synctest.Wait()
				c.act(r, tunnel)
				s := r.summary()
				if s.ClosedBy != c.by || s.CloseCode != c.code || s.Reason != c.reason {
					t.Errorf("closed by %s, %d, %q, want %s, %d, %q",
						s.ClosedBy, s.CloseCode, s.Reason, c.by, c.code, c.reason)
				}
				abnormal := c.clientEnd == syscall.ECONNRESET || c.relayEnd == syscall.ECONNRESET
				if aborted := tunnel.Wait(); aborted != abnormal {
					t.Errorf("Wait reports %v, want %v", aborted, abnormal)
				}
				if c.clientEnd != errHere {
					tunnel.client.ended(c.clientEnd)
				}
				if c.relayEnd != errHere {
					tunnel.relay.ended(c.relayEnd)
				}
				r.noneEnded() // twice
			})
		})
	}
}

// The network's errors name addresses; logs mask them or leave them out.
func TestTunnelReasonWithoutAddresses(t *testing.T) {
	clientLeg, client := tcpPair(t)
	relayLeg, relay := tcpPair(t)
	r := newFixture(t, 0)
	tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	tunnel.Wait()
	if s := <-r.summaries; s.Reason != "read: connection reset by peer" || s.ClosedBy != ByClient {
		t.Errorf("closed by %s: %q", s.ClosedBy, s.Reason)
	}
	if _, err := relay.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the relay sees %v, want a reset", err)
	}
}

// The end of one direction is passed on; the other one finishes in its own time.
func TestTunnelHalfClose(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.open()
		c.client.send(wstest.Message("last words"))
		c.client.CloseWrite()
		c.relay.expect(wstest.Message("last words"))
		c.relay.expectEnd(io.EOF)
		for range 4 {
			time.Sleep(time.Second)
			c.relay.send(wstest.Message("still here"))
			c.client.expect(wstest.Message("still here"))
		}
		r.noneEnded()
		c.relay.Close()
		c.client.expectEnd(io.EOF)
		if s := r.summary(); s.ClosedBy != ByClient || s.Duration != 4*time.Second {
			t.Errorf("%+v", s)
		}
	})
}

// ... within the time that is left to a tunnel.
func TestTunnelLinger(t *testing.T) {
	for _, name := range []string{ByClient, ByRelay} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(r *fixture) {
				c := r.openIdle(time.Hour)
				from, to := c.client, c.relay
				if name == ByRelay {
					from, to = to, from
				}
				time.Sleep(time.Minute)
				from.CloseWrite()
				to.expectEnd(io.EOF)
				s := r.summary()
				if s.Duration != time.Minute+linger || s.ClosedBy != name || s.CloseCode != closeAbnormal {
					t.Errorf("%+v", s)
				}
				if c.Wait() {
					t.Error("an end that takes too long is no fault of the other side")
				}
				from.expectEnd(io.EOF)
			})
		})
	}
}
