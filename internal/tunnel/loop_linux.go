package tunnel

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An event loop waits for the sockets of many tunnels and carries what comes from
// one leg to the other by itself. It replaces the two goroutines of a tunnel, whose
// stacks are a third of what an idle tunnel costs, and the wakes of the Go
// scheduler, which are a third of what a message costs (docs/engine.md has
// the measurements). Nothing in a loop blocks: a leg that does not take what is
// written keeps it as a backlog, and the other leg is not read from until that is
// gone.
//
// The legs that have something to do queue up, and each gets a turn that ends by
// itself (see turn). So no tunnel waits for longer than all that are busy take for
// a turn each: some 0.3 ms for two TLS legs as fast as they can. A tunnel that has
// used up several turns in a row is lent to a goroutine of its own for a while, as
// long as there are no more of these than processors (see lend), so that a loop
// keeps its processor for all the others.

// loops are the event loops of the process.
var loops loopSet

// loopSet grows with the number of processors that Go may use, which can change
// while the process runs.
type loopSet struct {
	mu  sync.Mutex // protects all
	all []*loop
}

// forTunnel returns the loop for a tunnel. There is one for each processor but one.
// Were they as many as the processors, each wait for events would leave the Go
// scheduler with no processor that is idle, and its monitor thread, which then looks
// every 20 µs for one to take away, would cost as much as the messages. A loop runs
// while it has tunnels.
func (s *loopSet) forTunnel(id uint64) *loop {
	n := max(1, runtime.GOMAXPROCS(0)-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.all) < n {
		s.all = append(s.all, newLoop())
	}
	return s.all[id%uint64(n)]
}

// loop is an event loop: one goroutine, run, and what belongs to it.
type loop struct {
	// For run alone.
	hands *hands
	queue queue     // legs that have something to do
	since time.Time // when run last got its processor
	looks time.Time // when it last looked for events

	epollWait func(epoll int, events []unix.EpollEvent, msec int) (int, error)

	mu      sync.Mutex // protects what follows
	running bool
	epoll   int // descriptors, while running
	wake    int
	tunnels int      // that have not ended; run goes on while there are any
	socks   []*sock  // by descriptor; nil where it is not one of this loop's
	entries uint32   // how many socks have been entered: tells them apart
	posted  []func() // to be called by run
}

func newLoop() *loop { return &loop{epollWait: unix.EpollWait} }

// hands are what it takes to carry bytes: whoever runs turns has a pair.
type hands struct {
	buf   *buffer // plaintext on its way
	spare *record // for the next TLS connection that is read from; may be nil
}

func newHands() *hands { return &hands{buf: takeBuffer()} }

func (h *hands) release() {
	giveBuffer(h.buf)
	giveRecord(h.spare)
}

// takeRecord and giveRecord keep one record at hand: most connections need theirs
// for one read only.
func (h *hands) takeRecord() *record {
	r := h.spare
	h.spare = nil
	if r == nil {
		r = records.Get().(*record)
	}
	return r
}

func (h *hands) giveRecord(r *record) {
	giveRecord(h.spare)
	h.spare = r
}

// reserve counts one tunnel more, and starts the loop for the first. An error means
// that there were no descriptors for it.
func (l *loop) reserve() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		if err := l.openLocked(); err != nil {
			return err
		}
		l.running = true
		go l.run()
	}
	l.tunnels++
	return nil
}

func (l *loop) openLocked() (err error) {
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake,
			&unix.EpollEvent{Fd: int32(l.wake), Events: unix.EPOLLIN})
		if err == nil {
			return nil
		}
		unix.Close(l.wake)
	}
	unix.Close(l.epoll)
	return err
}

// post has run call f soon. A loop that has ended has no tunnel that f could be
// about, and its descriptors may be somebody else's by now.
func (l *loop) post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		return
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		one := [8]byte{1}
		unix.Write(l.wake, one[:]) // fails only when it would be woken anyway
	}
}

// release is called by run when it has nothing more to do for a tunnel.
func (l *loop) release() {
	l.mu.Lock()
	l.tunnels--
	l.mu.Unlock()
}

const (
	// maxHold is how long a loop keeps its processor before it lets the Go
	// scheduler have a turn. From 10 ms on the scheduler would send signals to get
	// one, and wake its monitor thread.
	maxHold = 5 * time.Millisecond

	// maxDeaf is how long a loop goes from turn to turn before it looks for events.
	maxDeaf = time.Millisecond
)

// run serves the loop's tunnels until the last has ended.
func (l *loop) run() {
	l.hands = newHands()
	l.since = time.Now()
	var events [128]unix.EpollEvent
	for l.runPosted() {
		l.look(events[:])
		l.runTurns()
	}
}

// look queues the legs that have events, and waits for some if there is nothing to
// do.
func (l *loop) look(events []unix.EpollEvent) {
	timeout := -1
	if !l.queue.empty() {
		timeout = 0
	}
	n, err := l.epollWait(l.epoll, events, timeout)
	l.looks = time.Now()
	if err != nil && err != unix.EINTR {
		l.abandon(err)
		return
	}
	for _, event := range events[:max(n, 0)] {
		l.handle(event)
	}
}

func (l *loop) handle(event unix.EpollEvent) {
	if int(event.Fd) == l.wake {
		var count [8]byte
		unix.Read(l.wake, count[:])
		return
	}
	l.mu.Lock()
	s := l.socks[int(event.Fd)]
	l.mu.Unlock()
	// It may have been closed meanwhile, and its number be that of another.
	if s != nil && s.entry == uint32(event.Pad) {
		s.ready(event.Events)
	}
}

// runTurns gives each leg in the queue one turn, unless it is time to look for events
// before. What has more to do queues up again.
func (l *loop) runTurns() {
	for range l.queue.len() {
		s := l.queue.pop()
		if s.pair.lent || !s.queued {
			continue // it is lent, or has been and has had its turn
		}
		s.queued = false
		if s.turn(l.hands) && (s.fullTurns < busyTurns || !s.pair.lend()) {
			s.enqueue()
		}
		now := time.Now()
		if now.Sub(l.since) > maxHold {
			runtime.Gosched()
			l.since = time.Now()
		}
		if now.Sub(l.looks) > maxDeaf {
			return
		}
	}
}

// runPosted calls what has been posted until now. It reports false when the loop has
// ended: it has no tunnels left.
func (l *loop) runPosted() bool {
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tunnels > 0 {
		return true
	}
	l.running, l.posted = false, nil
	unix.Close(l.wake)
	unix.Close(l.epoll)
	l.hands.release()
	l.hands, l.queue = nil, queue{}
	return false
}

// abandon ends the tunnels of a loop that cannot wait for events any more. Tunnels
// that are lent out end when they come back, and those that are still being handed
// over when they have begun.
func (l *loop) abandon(err error) {
	l.mu.Lock()
	socks := append([]*sock(nil), l.socks...)
	l.mu.Unlock()
	for _, s := range socks {
		if s != nil && s.pair.begun && !s.pair.lent {
			s.pair.abandon(err)
		}
	}
	time.Sleep(minSettlePause) // for what is posted, as nothing wakes us
}

// watch enters s, so that its events are delivered.
func (l *loop) watch(s *sock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if missing := s.fd + 1 - len(l.socks); missing > 0 {
		l.socks = append(l.socks, make([]*sock, missing)...)
	}
	l.entries++
	s.entry = l.entries
	l.socks[s.fd] = s
}

// forget must come before the descriptor is closed, and perhaps used again.
func (l *loop) forget(s *sock) {
	l.mu.Lock()
	l.socks[s.fd] = nil
	l.mu.Unlock()
}

// queue is first in, first out, and has each sock once: one that was lent while it
// waited may still be in it when it comes back.
type queue struct {
	socks []*sock
	first int
}

func (q *queue) len() int    { return len(q.socks) - q.first }
func (q *queue) empty() bool { return q.len() == 0 }

func (q *queue) push(s *sock) {
	if s.inQueue {
		return
	}
	s.inQueue = true
	if q.first > 64 && q.first > len(q.socks)/2 { // more than half has gone
		n := copy(q.socks, q.socks[q.first:])
		clear(q.socks[n:])
		q.socks, q.first = q.socks[:n], 0
	}
	q.socks = append(q.socks, s)
}

func (q *queue) pop() *sock {
	s := q.socks[q.first]
	s.inQueue = false
	q.socks[q.first] = nil
	q.first++
	if q.first == len(q.socks) {
		q.socks, q.first = q.socks[:0], 0
	}
	return s
}
