package tunnel

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const idle = 10 * time.Minute

// Each byte, in either direction, begins the wait anew.
func TestIdle(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.openIdle(idle)
		for range 10 {
			time.Sleep(idle - time.Second)
			c.client.send(wstest.Message("a"))
			c.relay.expect(wstest.Message("a"))
			time.Sleep(idle - time.Second)
			c.relay.send(ping())
			c.client.expect(ping())
		}
		r.noneEnded()
		c.playBoth()
		synctest.Wait()
		start := time.Now()
		s := r.summary()
		if waited := time.Since(start); waited != idle {
			t.Errorf("closed after %v, want %v", waited, idle)
		}
		if s.Reason != "idle" || s.ClosedBy != ByProxy || s.CloseCode != closeGoingAway {
			t.Errorf("%+v", s)
		}
		if a, b := c.client.closeCode(), c.relay.closeCode(); a != closeGoingAway || b != closeGoingAway {
			t.Errorf("the client saw %d, the relay %d", a, b)
		}
	})
}

func TestIdleNever(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.openIdle(0)
		time.Sleep(365 * 24 * time.Hour)
		r.noneEnded()
		c.playBoth()
		c.client.CloseWrite()
		r.summary()
	})
}

// When the process has been suspended for longer than the idle timeout, what has come
// meanwhile is read before a tunnel is taken for idle.
func TestIdleOverslept(t *testing.T) {
	for name, sends := range map[string]bool{"busy": true, "idle": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(r *fixture) {
				c := r.openIdle(idle)
				c.playBoth()
				for range 2 { // as often as it happens
					c.active.Store(int64(time.Since(c.opened) - 2*idle))
					c.checkIdle()
					if !sends {
						break
					}
					c.client.send(wstest.Message("a"))
					r.noneEnded()
					time.Sleep(idle - time.Second)
					r.noneEnded()
				}
				if !sends {
					start := time.Now()
					if s := r.summary(); s.Reason != "idle" || time.Since(start) != secondLook {
						t.Errorf("closed after %v: %+v", time.Since(start), s)
					}
					return
				}
				c.client.CloseWrite()
				r.summary()
			})
		})
	}
}

// The same when it is suspended again before the second look.
func TestIdleOversleptTwice(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.openIdle(idle)
		c.playBoth()
		for suspended := range 3 {
			c.active.Store(int64(time.Since(c.opened) - time.Duration(suspended+2)*idle))
			c.checkIdle()
		}
		c.client.send(wstest.Message("a"))
		r.noneEnded()
		time.Sleep(idle - time.Second)
		r.noneEnded()
		if s := r.summary(); s.Reason != "idle" {
			t.Errorf("%+v", s)
		}
	})
}

// A client that takes what it is sent is not idle, however slowly, and one that takes
// nothing is.
func TestIdleSlowClient(t *testing.T) {
	t.Parallel()
	for _, kind := range engineKinds {
		t.Run(kind.name, func(t *testing.T) {
			r := newFixture(t, 0)
			clientLeg, client := tcpPair(t)
			client.(*net.TCPConn).SetReadBuffer(4 << 10)
			clientLeg.(*net.TCPConn).SetWriteBuffer(1 << 20)
			relayLeg, relay := tcpPair(t)
			tunnel := r.lease.Open(Info{}, ConnLeg(kind.wrap(clientLeg), nil, false), ConnLeg(kind.wrap(relayLeg), nil, false), time.Hour)
			message := encode(false, binaryFrame(pattern(100_000)))
			if _, err := relay.Write(message); err != nil {
				t.Fatal(err)
			}
			awaitForwarded(t, &tunnel.toClient, len(message)) // the system holds the rest
			// look has the tunnel looked at as if it had read nothing for long.
			look := func() (closed bool) {
				tunnel.active.Store(int64(time.Since(tunnel.opened) - time.Hour))
				tunnel.checkIdle()
				tunnel.mu.Lock()
				defer tunnel.mu.Unlock()
				return tunnel.reason == "idle"
			}
			for range 3 {
				look()
				for before := tunnel.client.unsent(); tunnel.client.unsent() == before; {
					if _, err := io.CopyN(io.Discard, client, 100); err != nil {
						t.Fatal(err)
					}
				}
				if look() {
					t.Fatal("a client that reads is idle")
				}
			}
			ticker := time.NewTicker(time.Millisecond)
			defer ticker.Stop()
			for !look() { // what it has read may yet have to be acknowledged
				<-ticker.C
			}
			reset(client)
			reset(relay)
			tunnel.Wait()
		})
	}
}

// Peers that have vanished answer nothing.
func TestIdleUnanswered(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.openIdle(idle)
		c.client.mute, c.relay.mute = true, true
		c.playBoth()
		if s := r.summary(); s.Duration != idle+linger {
			t.Errorf("closed after %v, want %v", s.Duration, idle+linger)
		}
		c.client.ended(io.EOF)
		c.relay.ended(io.EOF)
	})
}

// A client that takes nothing is idle, however much waits for it.
func TestIdleStuckClient(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		c := r.openIdle(idle)
		go c.relay.Write(encode(false, binaryFrame(pattern(1<<20))))
		if s := r.summary(); s.Duration != idle+secondLook+linger || s.Reason != "idle" {
			t.Errorf("%+v", s)
		}
		c.Wait()
		c.relay.Close()
		c.client.Close()
	})
}
