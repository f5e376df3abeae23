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
// scheduler, which are a third of what a message costs (docs/performance.md has
// the measurements). Nothing in a loop blocks: a leg that does not take what is
// written keeps it as a backlog, and the other leg is not read from until that is
// gone.

// loops are the event loops of the process, one for each processor but one. Were
// they as many as the processors, each wait for events would leave the Go scheduler
// with no processor that is idle, and its monitor thread, which then looks every 20
// µs for one to take away, would cost as much as the messages. A loop runs while it
// has tunnels.
var loops = sync.OnceValue(func() []*loop {
	ls := make([]*loop, max(1, runtime.GOMAXPROCS(0)-1))
	for i := range ls {
		ls[i] = new(loop)
	}
	return ls
})

// loop is an event loop: one goroutine, run, and what belongs to it.
type loop struct {
	// For run alone.
	buf   *buffer // plaintext on its way
	spare *record // for the next TLS connection that is read from; may be nil

	mu      sync.Mutex // protects what follows
	running bool
	epoll   int // descriptors, while running
	wake    int
	tunnels int      // that have not ended; run goes on while there are any
	socks   []*sock  // by descriptor; nil where it is not one of this loop's
	posted  []func() // to be called by run
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

// post has run call f after the events at hand. The loop must have a tunnel.
func (l *loop) post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
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

// maxTurn is how long a loop keeps its processor before it lets the Go scheduler
// have a turn. From 10 ms on the scheduler would send signals to get one, and wake
// its monitor thread.
const maxTurn = 5 * time.Millisecond

// run serves the loop's tunnels until the last has ended.
func (l *loop) run() {
	l.buf = takeBuffer()
	var events [128]unix.EpollEvent
	turn := time.Now()
	for l.runPosted() {
		if now := time.Now(); now.Sub(turn) > maxTurn {
			turn = now
			runtime.Gosched()
		}
		n, err := unix.EpollWait(l.epoll, events[:], -1)
		if err != nil && err != unix.EINTR {
			panic("epoll_wait: " + err.Error()) // the descriptor is ours and open
		}
		for _, event := range events[:max(n, 0)] {
			l.handle(event)
		}
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
	if s != nil { // or it was closed meanwhile
		s.ready(event.Events)
	}
}

// runPosted calls what was posted. It reports false when the loop has ended: it has
// no tunnels left and nothing to call.
func (l *loop) runPosted() bool {
	for {
		l.mu.Lock()
		posted := l.posted
		l.posted = nil
		if len(posted) == 0 {
			break
		}
		l.mu.Unlock()
		for _, f := range posted {
			f()
		}
	}
	defer l.mu.Unlock()
	if l.tunnels > 0 {
		return true
	}
	l.running = false
	unix.Close(l.wake)
	unix.Close(l.epoll)
	giveBuffer(l.buf)
	giveRecord(l.spare)
	l.buf, l.spare = nil, nil
	return false
}

// takeRecord and giveRecord keep one record at hand: most connections need theirs
// for one read only.
func (l *loop) takeRecord() *record {
	r := l.spare
	l.spare = nil
	if r == nil {
		r = records.Get().(*record)
	}
	return r
}

func (l *loop) giveRecord(r *record) {
	giveRecord(l.spare)
	l.spare = r
}

// watch enters s, so that its events are delivered.
func (l *loop) watch(s *sock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if missing := s.fd + 1 - len(l.socks); missing > 0 {
		l.socks = append(l.socks, make([]*sock, missing)...)
	}
	l.socks[s.fd] = s
}

// forget must come before the descriptor is closed, and perhaps used again.
func (l *loop) forget(s *sock) {
	l.mu.Lock()
	l.socks[s.fd] = nil
	l.mu.Unlock()
}
