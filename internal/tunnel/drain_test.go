package tunnel

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// A thousand tunnels, some of them in the middle of something at any time: oldest
// first, and in each tenth of the window between half and double its even share.
func TestDrainEvenly(t *testing.T) {
	const count, window = 1000, 20 * time.Second
	inBubble(t, window, func(r *fixture) {
		tunnels := make([]*peered, count)
		for i := range tunnels {
			c := r.open()
			tunnels[i] = c
			c.playBoth()
			switch i % 10 {
			case 3:
				go c.client.chatter(300 * time.Millisecond)
			case 7:
				go c.relay.chatter(300 * time.Millisecond)
			}
		}
		time.Sleep(time.Minute)

		begun := time.Now()
		r.lease.Release()
		r.registry.Wait()
		if took := time.Since(begun); took > window+linger {
			t.Errorf("the drain took %v", took)
		}

		var tenths [10]int
		var last time.Duration
		for i, c := range tunnels {
			if a, b := c.client.closeCode(), c.relay.closeCode(); a != closeGoingAway || b != closeGoingAway {
				t.Fatalf("tunnel %d: the client saw %d, the relay %d", i, a, b)
			}
			c.client.ended(io.EOF)
			c.relay.ended(io.EOF)
			// The leg that is not waited for tells when the tunnel's turn came.
			at := min(c.client.closedAt.Sub(begun), c.relay.closedAt.Sub(begun))
			if at < last {
				t.Errorf("tunnel %d was closed before an older one", i)
			}
			last = at
			tenths[min(at*10/window, 9)]++
		}
		for i, n := range tenths {
			if n < count/20 || n > count/5 {
				t.Errorf("tenth %d of the window has %d of %d tunnels", i, n, count)
			}
		}
		for range tunnels {
			if s := r.summary(); s.ClosedBy != ByProxy || s.CloseCode != closeGoingAway || s.Reason != "drained" {
				t.Fatalf("%+v", s)
			}
		}
		r.noneEnded()
	})
}

func TestDrainAtOnce(t *testing.T) {
	inBubble(t, 0, func(r *fixture) {
		tunnels := make([]*peered, 50)
		for i := range tunnels {
			tunnels[i] = r.open()
			tunnels[i].playBoth()
		}
		begun := time.Now()
		r.lease.Release()
		r.registry.Wait()
		for _, c := range tunnels {
			if a, b := c.client.closeCode(), c.relay.closeCode(); a != closeGoingAway || b != closeGoingAway {
				t.Errorf("the client saw %d, the relay %d", a, b)
			}
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("the drain took %v", took)
		}
	})
}

type beginning struct {
	name   string
	client bool // who has begun
	stream []byte
	sent   int // bytes of stream, before
}

// begun is what a peer may have begun when its tunnel is told to go.
var begun = []beginning{
	{"a header", true, encode(true, wstest.Message("hello")), 1},
	{"a masking key", true, encode(true, wstest.Message("hello")), 4},
	{"a payload", true, encode(true, wstest.Message("hello")), 10},
	{"a large frame", true, encode(true, binaryFrame(pattern(40<<10))), 30 << 10},
	{"a control frame", true, encode(true, ping()), 6},
	{"a message", true, encode(true, part(wstest.Text, "a"), last("b")), 7},
	{
		"a message with a control frame",
		true, encode(true, part(wstest.Text, "a"), ping(), last("b")), 10,
	},
	{"a header of the relay's", false, encode(false, wstest.Message("hello")), 1},
	{"a payload of the relay's", false, encode(false, wstest.Message("hello")), 6},
	{"a message of the relay's", false, encode(false, part(wstest.Text, "a"), last("")), 3},
}

// peersOf returns the one who has begun something, the client or the relay, and the other.
func (c *peered) peersOf(client bool) (from, to *endpoint) {
	if client {
		return c.client, c.relay
	}
	return c.relay, c.client
}

// eachBegun has a drain begin when each of them has been begun.
func eachBegun(t *testing.T, test func(t *testing.T, r *fixture, b beginning, from, to *endpoint)) {
	for _, b := range begun {
		t.Run(b.name, func(t *testing.T) {
			inBubble(t, 0, func(r *fixture) {
				from, to := r.open().peersOf(b.client)
				from.sendRaw(b.stream[:b.sent])
				synctest.Wait()
				r.lease.Release()
				test(t, r, b, from, to)
			})
		})
	}
}

// What has been begun may be finished; the Close frame is right after it and
// ahead of all else.
func TestDrainWaitsForBoundary(t *testing.T) {
	eachBegun(t, func(t *testing.T, r *fixture, b beginning, from, to *endpoint) {
		from.expect(wstest.CloseFrame(closeGoingAway)) // the other direction need not wait
		time.Sleep(linger - time.Second)
		if got := to.buffered(); !bytes.Equal(got, b.stream[:b.sent]) {
			t.Errorf("something was put into what was begun: %x", got)
		}
		from.sendRaw(slices.Concat(b.stream[b.sent:], encode(b.client, wstest.Message("too late"))))
		synctest.Wait()
		if got := to.buffered(); !bytes.HasPrefix(got, b.stream) {
			t.Errorf("it did not arrive whole")
		}
		from.send(wstest.CloseFrame(1000))
		to.play()
		from.play()
		if code := to.closeCode(); code != closeGoingAway {
			t.Errorf("then Close %d", code)
		}
		to.ended(io.EOF)
		for _, f := range to.got {
			if string(f.Payload) == "too late" {
				t.Error("a message came after")
			}
		}
		if s := r.summary(); s.Duration != linger-time.Second {
			t.Errorf("over after %v", s.Duration)
		}
	})
}

// ... but not for ever.
func TestDrainWaitsForBoundaryInVain(t *testing.T) {
	eachBegun(t, func(t *testing.T, r *fixture, b beginning, from, to *endpoint) {
		r.registry.Wait()
		if s := r.summary(); s.Duration != linger {
			t.Errorf("over after %v", s.Duration)
		}
		if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, b.stream[:b.sent]) {
			t.Errorf("then %x, %v", got[min(len(got), b.sent):], err)
		}
		from.expect(wstest.CloseFrame(closeGoingAway))
		from.expectEnd(io.EOF)
	})
}

// A Close frame that the peer itself has sent ends its direction: no second one
// follows, not even where it came in the middle of a message.
func TestDrainAfterClose(t *testing.T) {
	for _, client := range []bool{true, false} {
		for name, before := range map[string][]wstest.Frame{
			"between messages": {wstest.Message("a")},
			"in a message":     {part(wstest.Text, "a")},
		} {
			for _, late := range []bool{false, true} {
				inBubble(t, 0, func(r *fixture) {
					c := r.open()
					from, to := c.peersOf(client)
					from.send(before...)
					if !late {
						from.send(wstest.CloseFrame(1000))
					}
					synctest.Wait()
					r.lease.Release()
					synctest.Wait()
					if late && !to.in.InMessage && name == "between messages" {
						to.expect(append(before, wstest.CloseFrame(closeGoingAway))...)
						from.send(wstest.CloseFrame(1000))
						to.send(wstest.CloseFrame(1000))
						to.expectEnd(io.EOF)
						r.registry.Wait()
						return
					}
					if late {
						from.send(wstest.CloseFrame(1000))
					}
					to.send(wstest.CloseFrame(1000))
					r.registry.Wait()
					want := encode(client, append(before, wstest.CloseFrame(1000))...)
					if got, err := io.ReadAll(to); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: received %x, %v, want %x", name, got, err, want)
					}
				})
			}
		}
	}
}

// A client that has stopped reading holds up neither the drain nor the Close to
// its relay.
func TestDrainStuckClient(t *testing.T) {
	const count, window = 20, 10 * time.Second
	for name, waiting := range map[string]int{
		"in a write":             4 * room,
		"after the last message": room,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, window, func(r *fixture) {
				tunnels := make([]*peered, count)
				for i := range tunnels {
					tunnels[i] = r.open()
					// An answer would queue for the direction's mutex, in which
					// synctest does not let time go by.
					tunnels[i].relay.mute = true
					tunnels[i].relay.play()
					if i%2 == 0 {
						tunnels[i].client.play()
						continue
					}
					const header = 10
					frame := binaryFrame(pattern(waiting-header)).AppendForm(nil, false, wstest.Form64)
					go tunnels[i].relay.Write(frame)
				}
				synctest.Wait()
				begun := time.Now()
				r.lease.Release()
				r.registry.Wait()
				if took := time.Since(begun); took > window+linger {
					t.Errorf("the drain took %v", took)
				}
				for i, c := range tunnels {
					if code := c.relay.closeCode(); code != closeGoingAway {
						t.Errorf("relay %d saw %d", i, code)
					}
					if at := c.relay.closedAt.Sub(begun); at > window {
						t.Errorf("relay %d saw it after %v", i, at)
					}
					r.summary()
					c.client.Close()
				}
			})
		})
	}
}

// When all have left, there is nothing to wait for.
func TestDrainEndsEarly(t *testing.T) {
	inBubble(t, time.Hour, func(r *fixture) {
		tunnels := make([]*peered, 10)
		for i := range tunnels {
			tunnels[i] = r.open()
			tunnels[i].playBoth()
		}
		begun := time.Now()
		r.lease.Release()
		time.AfterFunc(time.Second, func() {
			for _, c := range tunnels {
				c.client.CloseWrite()
			}
		})
		r.registry.Wait()
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the drain took %v", took)
		}
	})
}

// A chosen few are drained, while the others and new ones go on, until told otherwise.
func TestDrainChosen(t *testing.T) {
	const count, window = 20, 10 * time.Second
	for name, stopAfter := range map[string]time.Duration{"all of it": window, "stopped": window / 2} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Second, func(r *fixture) {
				var chosen []*Tunnel
				for i := range 2 * count {
					c := r.open()
					c.playBoth()
					if i%2 == 0 {
						chosen = append(chosen, c.Tunnel)
					}
				}
				ctx, cancel := context.WithTimeout(context.Background(), stopAfter)
				defer cancel()
				begun := time.Now()
				Drain(ctx, chosen, window)
				if took := time.Since(begun); took > stopAfter || took < stopAfter*9/10 {
					t.Errorf("it took %v", took)
				}
				synctest.Wait()
				if n, want := len(r.summaries), int(count*stopAfter/window); n != want {
					t.Errorf("%d tunnels have ended, want %d", n, want)
				}
				if r.lease.Draining() {
					t.Error("the upstream takes no tunnels")
				}
				r.lease.Release()
				r.registry.Wait()
			})
		})
	}
}
