package tunnel

import (
	"io"
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
					c.client.send(text("a"))
					r.noneEnded()
					time.Sleep(idle - time.Second)
					r.noneEnded()
				}
				if !sends {
					start := time.Now()
					if s := r.summary(); s.Reason != "idle" || time.Since(start) != catchUp {
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
		if s := r.summary(); s.Duration != idle+linger || s.Reason != "idle" {
			t.Errorf("%+v", s)
		}
		c.Wait()
		c.relay.Close()
		c.client.Close()
	})
}
