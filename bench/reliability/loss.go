package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
)

// way is one way to end a tunnel.
type way struct {
	name string
	// end ends the tunnel once the payload is sent. It returns how much of that was
	// accepted, read as late as possible.
	end func(t *tunnel) (accepted int64)

	duplex   bool // it reads on until the other direction has ended in order, and so has to get all of that
	replies  bool // the peer sends once it has seen the end
	abrupt   bool // it is gone at once
	abnormal bool // the peer may not see it as orderly
	reset    bool // because it is a reset
	all      bool // it sends as much as any
	killed   bool // in place of end
}

var ways = []way{
	{name: "Close handshake", end: (*tunnel).endWithClose, duplex: true},
	{name: "end of stream", end: (*tunnel).endInOrder, duplex: true},
	{name: "half-close, then data the other way", end: (*tunnel).endInOrder, duplex: true, replies: true},
	{name: "FIN without close_notify", end: (*tunnel).endWithFIN, abnormal: true},
	{name: "reset", end: (*tunnel).endWithReset, abrupt: true, abnormal: true, reset: true},
	{name: "Close frame, then reset", end: (*tunnel).endWithCloseAndReset, abrupt: true},
	{name: "process killed", killed: true, abrupt: true, abnormal: true},
	{name: "upload, Close frame, and gone", end: (*tunnel).endWithCloseAndGo, abrupt: true, all: true},
	{name: "cut within a frame", end: (*tunnel).endWithinFrame, abnormal: true},
	{name: "all acknowledged, then reset", end: (*tunnel).endAfterAcknowledged, abrupt: true, abnormal: true, reset: true},
}

// tunnel is one tunnel of the test. Its ender ends it; its peer reacts to what comes
// in.
type tunnel struct {
	way
	id       int
	byClient bool // the client is the ender
	chance

	ender, peer *endpoint
	victim      *victim       // in place of the ender
	read        chan struct{} // closed when the ender has read to the end
	answered    chan struct{} // closed when the ender has got a Close frame
	over        chan struct{} // closed when the ender is gone

	enderTLS      bool
	closeWire     int64 // how much was written to the wire with the Close frame
	closeAccepted bool
}

// chance is what is drawn at random for each tunnel.
type chance struct {
	upload    int64         // what the ender sends before it ends
	sizes     *rand.Rand    // of its messages
	reads     bool          // the ender reads meanwhile
	sends     traffic       // from the peer to the ender
	pause     time.Duration // before the peer begins to read
	killAfter time.Duration
}

// traffic is what the peer sends until it sees the end.
type traffic int

const (
	silence traffic = iota
	chatter         // a small message now and then
	stream          // as much as it can
)

func newTunnel(id int, seed uint64) *tunnel {
	w := ways[id%len(ways)]
	return &tunnel{
		way: w, id: id, byClient: id/len(ways)%2 == 0,
		chance: newChance(rand.New(rand.NewPCG(seed, uint64(id))), w),
		read:   make(chan struct{}), answered: make(chan struct{}), over: make(chan struct{}),
	}
}

func newChance(rng *rand.Rand, w way) chance {
	c := chance{
		upload:    rng.Int64N(mostUpload),
		sizes:     rand.New(rand.NewPCG(rng.Uint64(), 0)),
		reads:     rng.IntN(2) == 0,
		sends:     traffic(rng.IntN(3)),
		pause:     time.Duration(rng.IntN(4)) * 100 * time.Millisecond,
		killAfter: time.Duration(1+rng.IntN(150)) * time.Millisecond,
	}
	if !w.abrupt {
		c.reads = true
	}
	if w.all {
		c.upload = mostUpload
	}
	return c
}

const (
	mostUpload = 1500000
	mostStream = 500000 // from the peer to the ender
	replySize  = 300000 // after a half-close
	mostFrame  = 32000
)

// linger is how long a proxy may take to pass on an end.
const linger = 8 * time.Second

// together is how many tunnels are open at a time.
const together = 20

// loss ends half of the tunnels with TLS to the relay, half without.
func (y *yard) loss(ctx context.Context, c contestant.Contestant) error {
	for _, plain := range []bool{false, true} {
		lab := *y.lab
		lab.PlainRelay = plain
		if err := y.lossOver(ctx, &lab, c); err != nil {
			return err
		}
	}
	return nil
}

func (y *yard) lossOver(ctx context.Context, lab *contestant.Lab, c contestant.Contestant) error {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer ln.Close()
	proxy, err := lab.Start(ctx, c, ln.Addr().String())
	if err != nil {
		return err
	}
	defer proxy.Stop()
	o := &opener{lab: lab, proxy: proxy.Addr, relay: ln}
	tally := newTally(c.Name, lab.PlainRelay)
	err = o.endEach(ctx, tally, y.seed, together, func(id int) bool { return id < y.size.ends/2 })
	if err != nil {
		return proxy.Explain(err)
	}
	y.results.Loss = append(y.results.Loss, tally.results()...)
	return nil
}

// endEach opens tunnels as long as there are more, some at a time, and has each end in its
// way.
func (o *opener) endEach(ctx context.Context, tally *tally, seed uint64, together int, more func(id int) bool) error {
	places := make(chan struct{}, together)
	var running sync.WaitGroup
	defer running.Wait()
	for id := 0; more(id); id++ {
		places <- struct{}{}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		t := newTunnel(id, seed)
		if err := o.open(t); err != nil {
			return fmt.Errorf("opening tunnel %d: %w", id, err)
		}
		running.Go(func() {
			defer func() { <-places }()
			tally.add(t, t.run())
		})
	}
	return nil
}

// opener opens one tunnel at a time, so that the next connection the relay accepts is
// known to be that tunnel's.
type opener struct {
	lab   *contestant.Lab
	proxy string
	relay *net.TCPListener

	opening sync.RWMutex // held by whoever has the proxy close connections unheard
}

func (o *opener) open(t *tunnel) error {
	o.opening.RLock()
	defer o.opening.RUnlock()
	conn, err := net.DialTimeout("tcp", o.proxy, patience)
	if err != nil {
		return err
	}
	client := make(chan error, 1)
	go func() { client <- o.take(t, conn.(*net.TCPConn), true) }()
	if err := o.relay.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	accepted, err := o.relay.AcceptTCP()
	if err != nil {
		conn.Close()
		return errors.Join(err, <-client)
	}
	return errors.Join(o.take(t, accepted, false), <-client)
}

// take makes a connection an end of the tunnel.
func (o *opener) take(t *tunnel, tcp *net.TCPConn, client bool) (err error) {
	certs := o.lab.Certs
	role := role{Client: client, TLS: client || !o.lab.PlainRelay, ID: t.id, Roots: certs.Roots, Cert: certs.Relay.Cert, Key: certs.Relay.Key}
	if client == t.byClient {
		role.Reads, t.enderTLS = t.reads, role.TLS
	}
	switch {
	case client != t.byClient:
		t.peer, err = establish(tcp, role)
	case t.killed:
		t.victim, err = startVictim(tcp, role)
	default:
		t.ender, err = establish(tcp, role)
	}
	return err
}

// outcome is what became of a tunnel.
type outcome struct {
	accepted, delivered int64 // from the ender to its peer
	back, backDelivered int64 // the other way, where the ender reads to the end
	damaged             bool
	closeLost           bool
	disguised           bool // an abnormal end was seen as an orderly one
	hung                bool
}

func (o outcome) lost() int64 {
	return max(0, o.accepted-o.delivered) + max(0, o.back-o.backDelivered)
}

// run lets both ends do their part.
func (t *tunnel) run() outcome {
	var o outcome
	var both sync.WaitGroup
	both.Go(func() {
		defer close(t.over)
		if t.killed {
			time.Sleep(t.killAfter)
			o.accepted = t.victim.kill()
		} else {
			o.accepted = t.runEnder()
		}
	})
	both.Go(func() { o.back = t.runPeer() })
	both.Wait()
	t.judge(&o)
	return o
}

// judge compares what arrived with what was accepted.
func (t *tunnel) judge(o *outcome) {
	got := &t.peer.received
	o.delivered = got.payload
	o.damaged, o.hung = got.damaged, got.hung()
	o.closeLost = t.closeAccepted && !got.closed
	// Without TLS a FIN is a FIN, so then neither a proxy nor a peer can tell.
	evident := t.reset || t.enderTLS && t.peer.TLS
	o.disguised = t.abnormal && (got.closed || t.peer.sawOrderlyEnd() && evident)
	if !t.duplex {
		o.back = 0
		return
	}
	o.backDelivered = t.ender.received.payload
	o.damaged = o.damaged || t.ender.received.damaged
	o.hung = o.hung || t.ender.received.hung()
}
