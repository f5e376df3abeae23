package tunnel

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// room is what a connection in memory holds on the way.
const room = 64 << 10

// fixture is a registry with one leased upstream.
type fixture struct {
	t         *testing.T
	registry  *Registry
	lease     *Lease
	summaries chan Summary
}

// inBubble runs test in fake time. All goroutines that it leaves behind have to
// end, or synctest panics.
func inBubble(t *testing.T, window time.Duration, test func(r *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newFixture(t, window)) })
}

func newFixture(t *testing.T, window time.Duration) *fixture {
	summaries := make(chan Summary, 10_000)
	registry := NewRegistry(func(s Summary) { summaries <- s })
	return &fixture{t, registry, registry.Lease("wss://relay.test", window, nil), summaries}
}

// peered is a tunnel and the peers at its ends.
type peered struct {
	*Tunnel
	client, relay *endpoint
}

func (r *fixture) open() *peered { return r.openIdle(0) }

func (r *fixture) openIdle(idle time.Duration) *peered {
	clientLeg, client := memPair(room)
	relayLeg, relay := memPair(room)
	info := Info{Upstream: "wss://relay.test", ClientIP: "192.0.2.1", SessionID: "s"}
	t := r.lease.Open(info, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), idle)
	return &peered{t, newEndpoint(r.t, client, true), newEndpoint(r.t, relay, false)}
}

// summary waits for the next tunnel to end.
func (r *fixture) summary() Summary {
	r.t.Helper()
	select {
	case s := <-r.summaries:
		return s
	case <-time.After(time.Hour):
		r.t.Fatal("no tunnel has ended")
		return Summary{}
	}
}

// noneEnded says so after whatever is going on has gone on.
func (r *fixture) noneEnded() {
	r.t.Helper()
	synctest.Wait()
	if n := len(r.summaries); n > 0 {
		r.t.Errorf("%d tunnels have ended: %+v", n, <-r.summaries)
	}
}

// endpoint is a strict WebSocket peer of a tunnel.
type endpoint struct {
	*memConn
	t      *testing.T
	client bool
	in     *wstest.Reader

	turn      chan struct{} // held by whoever sends; one may wait for it durably
	sentClose bool          // for who holds turn
	mute      bool          // answers no Close frame and closes nothing

	done     chan struct{} // closed when play is over; the rest is valid then
	got      []wstest.Frame
	closedAt time.Time // when the Close frame came
	end      error     // how the stream ended
}

func newEndpoint(t *testing.T, conn *memConn, client bool) *endpoint {
	return &endpoint{
		memConn: conn, t: t, client: client,
		in:   wstest.NewReader(conn, !client),
		turn: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// send puts whole frames on the wire.
func (e *endpoint) send(frames ...wstest.Frame) {
	e.t.Helper()
	e.inTurn(func() {
		for _, f := range frames {
			e.sentClose = e.sentClose || f.Opcode == opClose
			e.sendRaw(encode(e.client, f))
		}
	})
}

func (e *endpoint) inTurn(send func()) {
	e.t.Helper()
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	send()
}

// chatter sends messages, each of which takes a while, until it may not go on.
func (e *endpoint) chatter(pause time.Duration) {
	message := encode(e.client,
		part(wstest.Text, "slow"), ping(), part(wstest.Continuation, "and"),
		last("steady"), wstest.Message("over"))
	const pieces = 7
	for closed := false; !closed; {
		e.inTurn(func() {
			for p := range slices.Chunk(message, len(message)/pieces) {
				if closed = e.sentClose; closed {
					return
				}
				if _, err := e.Write(p); err != nil {
					closed = true
					return
				}
				time.Sleep(pause)
			}
		})
	}
}

func (e *endpoint) sendRaw(p []byte) {
	e.t.Helper()
	if _, err := e.Write(p); err != nil {
		e.t.Errorf("sending: %v", err)
	}
}

// play reads to the end, as a good peer: it answers a Close frame and closes the
// connection when the stream has ended.
func (e *endpoint) play() {
	go func() {
		defer close(e.done)
		for {
			f, err := e.in.Next()
			if err != nil {
				e.end = err
				break
			}
			e.got = append(e.got, f)
			if f.Opcode == opClose {
				e.closedAt = time.Now()
				e.sendClose()
			}
		}
		if !e.mute {
			e.Close()
		}
	}()
}

// sendClose sends the one Close frame, after which a relay sends no more.
func (e *endpoint) sendClose() {
	if e.mute {
		return
	}
	e.inTurn(func() {
		if !e.sentClose {
			e.sentClose = true
			e.Write(encode(e.client, wstest.CloseFrame(1000))) // the tunnel may be gone by now
		}
	})
	if !e.client {
		e.CloseWrite()
	}
}

// ended waits until play is over and checks how.
func (e *endpoint) ended(want error) {
	e.t.Helper()
	<-e.done
	if e.end != want {
		e.t.Errorf("%s: the stream ended with %v, want %v", e, e.end, want)
	}
}

// closeCodes are the codes of the Close frames that came: one at the most, says
// wstest.Reader.
func (e *endpoint) closeCode() int {
	<-e.done
	for _, f := range e.got {
		if f.Opcode == opClose {
			return f.Code()
		}
	}
	return closeAbnormal
}

func (e *endpoint) String() string {
	if e.client {
		return "client"
	}
	return "relay"
}

// playBoth has both peers play.
func (c *peered) playBoth() {
	c.client.play()
	c.relay.play()
}

// expect reads the frames that are to come next.
func (e *endpoint) expect(want ...wstest.Frame) {
	e.t.Helper()
	for i, w := range want {
		f, err := e.in.Next()
		if err != nil {
			e.t.Fatalf("%s: frame %d: %v", e, i, err)
		}
		if f.Fin != w.Fin || f.Opcode != w.Opcode || string(f.Payload) != string(w.Payload) {
			e.t.Fatalf("%s: frame %d is %s, want %s", e, i, f, w)
		}
	}
}

// expectEnd reads what should be the end of the stream.
func (e *endpoint) expectEnd(want error) {
	e.t.Helper()
	if f, err := e.in.Next(); err != want {
		e.t.Fatalf("%s: %s, %v, want %v", e, f, err, want)
	}
}

// part returns a frame of a message that goes on.
func part(opcode byte, payload string) wstest.Frame {
	return wstest.Frame{Opcode: opcode, Payload: []byte(payload)}
}

// last returns the frame that ends a message of several.
func last(payload string) wstest.Frame {
	return wstest.Frame{Fin: true, Opcode: wstest.Continuation, Payload: []byte(payload)}
}

func binaryFrame(payload []byte) wstest.Frame {
	return wstest.Frame{Fin: true, Opcode: wstest.Binary, Payload: payload}
}

func ping() wstest.Frame {
	return wstest.Frame{Fin: true, Opcode: wstest.Ping, Payload: []byte("?")}
}

// encode is wstest.Encode with the same masking key each time, so that bytes can be
// compared.
func encode(masked bool, frames ...wstest.Frame) []byte {
	var b []byte
	for _, f := range frames {
		b = f.AppendForm(b, masked, wstest.Shortest)
	}
	return b
}

// pattern returns n bytes that show where each of them belongs. wstest.Pattern would
// not do: some tests send these bytes bare, a tunnel takes them for frames, and no
// Close frame is among the first thousand.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// inParallel runs f for each of n and waits.
func inParallel(n int, f func(i int)) {
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { f(i) })
	}
	running.Wait()
}
