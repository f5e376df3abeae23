package tunnel

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

var (
	randomFor  = flag.Duration("random.for", 0, "how long TestRandom goes on; 0 for one round")
	randomSeed = flag.Uint64("random.seed", 0, "what TestRandom's decisions come from; 0 for a new one")
)

// TestRandom has both engines carry tunnels whose peers write, stall and end at
// random, while others are opened, drained and cut off. Each byte that a summary
// counts has arrived, frames stay whole, quiet tunnels go on, and nothing is left.
// For longer:
//
//	go test ./internal/tunnel -run TestRandom -v -timeout 20m -random.for 10m
func TestRandom(t *testing.T) {
	seed := *randomSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	begun := time.Now()
	for round := uint64(0); round == 0 || time.Since(begun) < *randomFor && !t.Failed(); round++ {
		t.Run(fmt.Sprintf("-random.seed=%d", seed+round), func(t *testing.T) {
			for _, kind := range engineKinds {
				t.Run(kind.name, func(t *testing.T) { newRandomRound(t, kind, seed+round).run() })
			}
		})
	}
}

const (
	randomTunnels = 24 // of a round, over each engine

	// noProgress is when something that takes milliseconds is taken for stuck. It is
	// less than linger, which ends what is stuck.
	noProgress = 4 * time.Second
)

// randomRound is a registry from its first tunnel to its last. The quiet tunnels beside
// have a registry of their own, which nobody disturbs, but the same loops.
type randomRound struct {
	*testing.T
	kind     engineKind
	rand     *rand.Rand // for the goroutine of run alone
	registry *Registry
	quiet    *Lease

	mu        sync.Mutex // protects what follows
	lease     *Lease     // exchanged while tunnels are opened
	live      map[uint64]*randomTunnel
	summaries map[uint64]Summary
	slowest   time.Duration // round trip of a quiet tunnel
}

func newRandomRound(t *testing.T, kind engineKind, seed uint64) *randomRound {
	r := &randomRound{
		T: t, kind: kind, rand: rand.New(rand.NewPCG(seed, 0)),
		live: make(map[uint64]*randomTunnel), summaries: make(map[uint64]Summary),
	}
	r.registry = NewRegistry(r.closed)
	r.lease = r.registry.Lease("wss://relay.test", 20*time.Millisecond, nil)
	r.quiet = NewRegistry(func(Summary) {}).Lease("wss://quiet.test", 0, nil)
	return r
}

func (r *randomRound) closed(s Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.summaries[s.ID]; twice {
		r.Errorf("tunnel %d has been summed up twice", s.ID)
	}
	r.summaries[s.ID] = s
}

func (r *randomRound) run() {
	stopQuiet := r.startQuiet()
	var players, chaos sync.WaitGroup
	over := make(chan struct{})
	random := r.fork()
	chaos.Go(func() { r.disturb(random, over) })
	for range randomTunnels {
		t := r.connect(r.rand.IntN(2) == 0, r.rand.IntN(2) == 0)
		players.Go(func() { r.play(t) })
	}
	ended := make(chan struct{})
	go func() {
		players.Wait()
		close(ended)
	}()
	close(over)
	chaos.Wait()
	r.end(ended)
	stopQuiet()
	r.registry.Wait()
	if left := r.registry.Tunnels(); len(left) > 0 {
		r.Errorf("%d tunnels are left", len(left))
	}
	r.Logf("the slowest round trip took %v", r.slowest)
}

// end drains what still lives, and ends what does not end by itself.
func (r *randomRound) end(ended chan struct{}) {
	r.lease.Release()
	select {
	case <-ended:
		return
	case <-time.After(time.Duration(r.rand.IntN(200)) * time.Millisecond):
	}
	r.mu.Lock()
	for _, t := range r.live {
		t.cut.Store(true)
	}
	r.mu.Unlock()
	r.registry.EndAll()
	select {
	case <-ended:
	case <-time.After(noProgress):
		for _, t := range r.registry.Tunnels() {
			r.Errorf("still there long after EndAll: %+v", t.State())
		}
		<-ended
	}
}

func (r *randomRound) fork() *rand.Rand { return rand.New(rand.NewPCG(r.rand.Uint64(), 0)) }

// disturb does to tunnels what operators do.
func (r *randomRound) disturb(random *rand.Rand, over chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(time.Duration(random.IntN(30)) * time.Millisecond):
		}
		switch random.IntN(6) {
		case 0: // the upstream is gone from the configuration, and comes back
			r.mu.Lock()
			r.lease.Release()
			r.mu.Unlock()
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			r.mu.Lock()
			r.lease = r.registry.Lease("wss://relay.test", 20*time.Millisecond, nil)
			r.mu.Unlock()
		case 1:
			var chosen []*Tunnel
			for _, t := range r.some(random) {
				chosen = append(chosen, t.Tunnel)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			Drain(ctx, chosen, time.Duration(random.IntN(40))*time.Millisecond)
			cancel()
		case 2:
			for _, t := range r.some(random) {
				t.cut.Store(true)
				t.cutOff()
			}
		default:
			for _, t := range r.registry.Tunnels() {
				if s := t.State(); s.BytesToRelay > 0 && s.FramesToRelay == 0 {
					r.Errorf("bytes without frames: %+v", s)
				}
			}
		}
	}
}

// some returns a few of the tunnels that live.
func (r *randomRound) some(random *rand.Rand) (some []*randomTunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.live {
		if random.IntN(4) == 0 {
			some = append(some, t)
		}
	}
	return some
}

// startQuiet has quiet tunnels pass messages, more than there are loops.
func (r *randomRound) startQuiet() (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	for i := range 4 {
		t := r.connect(i%2 == 0, i%2 == 0)
		t.open(r.quiet)
		running.Go(func() {
			message, got := encode(true, wstest.Message("hello")), make([]byte, 64)
			for {
				begun := time.Now()
				t.client.conn.SetDeadline(begun.Add(noProgress))
				t.relay.conn.SetDeadline(begun.Add(noProgress))
				t.client.conn.Write(message)
				_, err := io.ReadFull(t.relay.conn, got[:len(message)])
				if err == nil {
					t.relay.conn.Write(message[:7])
					_, err = io.ReadFull(t.client.conn, got[:7])
				}
				if err != nil {
					r.Errorf("a quiet tunnel does not go on: %v", err)
					break
				}
				r.mu.Lock()
				r.slowest = max(r.slowest, time.Since(begun))
				r.mu.Unlock()
				select {
				case <-done:
					reset(t.client.conn)
					reset(t.relay.conn)
					t.Wait()
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		close(done)
		running.Wait()
	}
}

// randomTunnel is a tunnel and its peers.
type randomTunnel struct {
	*Tunnel       // nil before it is opened
	legs          [2]Leg
	client, relay *player
	cut           atomic.Bool // cut off by us
}

// connect makes the legs of a tunnel and their peers.
func (r *randomRound) connect(clientTLS, relayTLS bool) *randomTunnel {
	connect := func(secure bool) (leg Leg, peer net.Conn) {
		conn, peer := tcpPair(r.T)
		conn = r.kind.wrap(conn)
		if secure {
			conn, peer = shakeHands(r.T, conn, peer)
		}
		return ConnLeg(conn, nil, false), peer
	}
	clientLeg, client := connect(clientTLS)
	relayLeg, relay := connect(relayTLS)
	t := &randomTunnel{legs: [2]Leg{clientLeg, relayLeg}}
	t.client, t.relay = newPlayer(client, true, r.fork()), newPlayer(relay, false, r.fork())
	t.client.peer, t.relay.peer = t.relay, t.client
	return t
}

func (t *randomTunnel) open(lease *Lease) {
	t.Tunnel = lease.Open(Info{}, t.legs[0], t.legs[1], time.Hour)
}

// play opens t, has its peers do what they will, and judges what came of it.
func (r *randomRound) play(t *randomTunnel) {
	r.mu.Lock()
	lease := r.lease // may be released by the time it is used
	r.mu.Unlock()
	t.open(lease)
	r.mu.Lock()
	r.live[t.id] = t
	r.mu.Unlock()
	over := make(chan struct{})
	var playing sync.WaitGroup
	for _, p := range []*player{t.client, t.relay} {
		playing.Go(func() { p.write() })
		playing.Go(func() { p.read(over) })
	}
	t.Wait()
	close(over)
	playing.Wait()
	r.mu.Lock()
	delete(r.live, t.id)
	s, ok := r.summaries[t.id]
	r.mu.Unlock()
	if !ok {
		r.Errorf("tunnel %d is over without a summary", t.id)
	}
	what := fmt.Sprintf("cut off %v, %+v\nclient: %v\nrelay: %v", t.cut.Load(), s, t.client, t.relay)
	if err := t.relay.judge(s.BytesToRelay, s.CutToRelay, t.cut.Load()); err != nil {
		r.Errorf("to the relay: %v\n%s", err, what)
	}
	if err := t.client.judge(s.BytesToClient, s.CutToClient, t.cut.Load()); err != nil {
		r.Errorf("to the client: %v\n%s", err, what)
	}
}

// ending of a peer's own making.
const (
	endsNever   = iota // but when it is told to
	endsByClose        // a Close frame
	endsByHalf         // the end of its stream
	endsByReset
	endsByClosing // its socket, whatever has come
	waysToEnd
)

// script is what a peer does.
type script struct {
	frames []int           // by their place in frameSizes
	pauses []time.Duration // before each
	stalls []time.Duration // of reading, before each frame
	deaf   bool            // does not read after the stalls, until the tunnel is over
	end    int
}

var frameSizes = [...]int{0, 1, 125, 126, 1000, 4096, 16 << 10, 65535, 65536, 200_000, 1 << 20}

// framesOf has all frames as a relay and as a client send them.
var framesOf = sync.OnceValue(func() (of [2][len(frameSizes)][]byte) {
	for i, size := range frameSizes {
		for masked := range 2 {
			of[masked][i] = encode(masked == 1, binaryFrame(pattern(size)))
		}
	}
	return of
})

func newScript(random *rand.Rand) (s script) {
	pause := func() time.Duration {
		if random.IntN(5) > 0 {
			return 0
		}
		return time.Duration(random.IntN(5000)) * time.Microsecond
	}
	largest := 1 + random.IntN(len(frameSizes))
	for range random.IntN(30) {
		s.frames = append(s.frames, random.IntN(largest))
		s.pauses = append(s.pauses, pause())
		s.stalls = append(s.stalls, pause())
	}
	s.deaf = random.IntN(8) == 0
	s.end = random.IntN(waysToEnd)
	return s
}

// player is a peer of a tunnel.
type player struct {
	script
	conn   net.Conn
	client bool
	peer   *player
	in     *wstest.Reader
	told   chan struct{} // closed when the peer or the proxy wants to end

	raw atomic.Int64 // bytes that have come

	mu   sync.Mutex // protects what follows
	sent []int      // by place in frameSizes
	size int        // of all that, and of a Close frame

	// For read, and for judge afterwards.
	got  int   // frames
	code int   // of the Close frame that came
	err  error // how the stream ended
	bad  error // what should not have come
}

func newPlayer(conn net.Conn, client bool, random *rand.Rand) *player {
	p := &player{script: newScript(random), conn: conn, client: client, told: make(chan struct{})}
	p.in = wstest.NewReader(p, !client)
	return p
}

func (p *player) String() string {
	return fmt.Sprintf("%T, sent %d frames, %d bytes; got %d frames, %d bytes, code %d, then %v; ends %d, deaf %v",
		p.conn, len(p.sent), p.size, p.got, p.raw.Load(), p.code, p.err, p.end, p.deaf)
}

// Read is for in.
func (p *player) Read(b []byte) (int, error) {
	n, err := p.conn.Read(b)
	p.raw.Add(int64(n))
	return n, err
}

func (p *player) write() {
	masked := 0
	if p.client {
		masked = 1
	}
	for i, size := range p.frames {
		select {
		case <-p.told:
		case <-time.After(p.pauses[i]):
			frame := framesOf()[masked][size]
			p.mu.Lock()
			p.sent = append(p.sent, size)
			p.size += len(frame)
			p.mu.Unlock()
			if _, err := p.conn.Write(frame); err != nil {
				return
			}
		}
	}
	if p.end == endsNever {
		<-p.told
	}
	switch p.end {
	case endsByReset:
		reset(p.conn)
	case endsByClosing:
		p.conn.Close()
	case endsNever, endsByClose:
		frame := encode(p.client, wstest.CloseFrame(1000))
		p.mu.Lock()
		p.size += len(frame)
		p.mu.Unlock()
		p.conn.Write(frame)
		fallthrough
	case endsByHalf:
		p.conn.(interface{ CloseWrite() error }).CloseWrite()
	}
}

func (p *player) read(over chan struct{}) {
	var once sync.Once
	tell := func() { once.Do(func() { close(p.told) }) }
	defer tell()
	for p.bad == nil {
		if p.got < len(p.stalls) {
			time.Sleep(p.stalls[p.got])
		} else if p.deaf {
			<-over
		}
		f, err := p.in.Next()
		if err != nil {
			p.err = err
			break
		}
		if f.Opcode == opClose {
			p.code = f.Code()
			tell()
			continue
		}
		p.bad = p.peer.check(p.got, f)
		p.got++
	}
	tell()
	<-over
	p.conn.Close()
}

// check reports whether f is the i-th frame that p has sent.
func (p *player) check(i int, f wstest.Frame) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i >= len(p.sent) || frameSizes[p.sent[i]] != len(f.Payload) || !bytes.Equal(f.Payload, pattern(len(f.Payload))) {
		return fmt.Errorf("frame %d was not sent: %s", i, f)
	}
	return nil
}

// judge says what is wrong with what p got, of which the proxy says that it delivered
// so many bytes and could not deliver others.
func (p *player) judge(delivered, undelivered uint64, cutOff bool) error {
	received := uint64(p.raw.Load())
	if p.code == closeGoingAway {
		received -= uint64(len(encode(!p.client, wstest.CloseFrame(closeGoingAway))))
	}
	switch {
	case p.bad != nil:
		return p.bad
	case delivered > uint64(p.peer.size):
		return errors.New("more was delivered than was sent")
	case p.end == endsByReset || p.end == endsByClosing || p.deaf || cutOff:
		return nil // it has not read all
	case undelivered != 0 || received != delivered:
		return fmt.Errorf("%d bytes came, %d were delivered and %d were not", received, delivered, undelivered)
	case p.err == io.EOF && p.code == 0 && p.peer.willEndInOrder() && p.got != len(p.peer.sent):
		return fmt.Errorf("%d frames of %d came", p.got, len(p.peer.sent))
	}
	return nil
}

func (p *player) willEndInOrder() bool { return p.end == endsByClose || p.end == endsByHalf }
