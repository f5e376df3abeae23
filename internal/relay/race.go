package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// connectDelay is how long an address has for connecting before the next is tried
	// beside it (RFC 8305, section 8). The transport's dial_fallback_delay changes it.
	connectDelay = 250 * time.Millisecond
	// tlsDelay is how long one that has connected has for TLS: two round trips at
	// least, and a computer behind it that may be busy. A process that has stopped
	// still accepts connections.
	tlsDelay = 2 * time.Second
	// maxAttempts bounds how many addresses are tried at once, and so how many sockets
	// a handshake may hold. One more takes the place of the first of them.
	maxAttempts = 4
)

// race connects to the addresses of one name (Happy Eyeballs, RFC 8305, section 5): to
// the next when the last has failed or kept it waiting. The first that connects, and
// does TLS where that is asked for, wins.
type race struct {
	name  *name
	addrs []netip.Addr
	delay time.Duration // connectDelay; negative to wait until the last has failed
	// served is told of those that failed before another one won.
	served func(stage Stage, text string)
	// attempt connects to one address. It calls connected between connecting and TLS.
	attempt func(ctx context.Context, addr netip.Addr, connected func()) (net.Conn, error)

	ctx      context.Context // of all attempts
	events   chan event
	timer    *time.Timer // until the next is tried
	pending  map[int]context.CancelFunc
	started  int
	failures failures
}

// event is news of the attempt at an address: it has connected and goes on with TLS, or
// it is over.
type event struct {
	attempt   int
	connected bool
	conn      net.Conn
	err       error
}

// run returns the connection that wins. When it returns, all other attempts are being
// given up, and their connections are closed.
func (r *race) run(ctx context.Context) (net.Conn, error) {
	if len(r.addrs) == 1 {
		return r.only(ctx)
	}
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	r.events, r.pending = make(chan event), make(map[int]context.CancelFunc)
	r.timer = time.NewTimer(time.Hour) // set by wait
	defer r.timer.Stop()
	r.start()
	for len(r.pending) > 0 {
		select {
		case <-r.timer.C:
			r.start()
		case e := <-r.events:
			switch {
			case r.pending[e.attempt] == nil: // given up just now
				e.close()
			case e.connected:
				r.wait(tlsDelay)
			case e.err == nil:
				r.won(e.attempt)
				return e.conn, nil
			default:
				r.failed(e.attempt, e.err)
				r.start()
			}
		case <-ctx.Done():
			r.over(ctx)
			return nil, context.Cause(ctx)
		}
	}
	return nil, r.failures.error()
}

// only is for a single address, to which nothing is an alternative.
func (r *race) only(ctx context.Context) (net.Conn, error) {
	conn, err := r.attempt(ctx, r.addrs[0], func() {})
	switch {
	case err == nil:
		r.name.noteWorks(r.addrs[0])
	case ctx.Err() == nil:
		r.name.noteFailed(r.addrs[0])
	}
	return conn, err
}

// start tries the next address, if there is one left.
func (r *race) start() {
	if r.started == len(r.addrs) {
		return
	}
	if len(r.pending) == maxAttempts {
		r.failed(slices.Min(slices.Collect(maps.Keys(r.pending))), errOvertaken)
	}
	i := r.started
	r.started++
	ctx, cancel := context.WithCancel(r.ctx)
	r.pending[i] = cancel
	r.wait(r.delay)
	go func() {
		conn, err := r.attempt(ctx, r.addrs[i], func() { r.tell(ctx, event{attempt: i, connected: true}) })
		r.tell(ctx, event{attempt: i, conn: conn, err: err})
	}()
}

// tell tells the race what has become of an attempt, unless it is over, or has given the
// attempt up.
func (r *race) tell(ctx context.Context, e event) {
	select {
	case r.events <- e:
	case <-ctx.Done():
		e.close()
	}
}

func (e *event) close() {
	if e.conn != nil {
		e.conn.Close()
	}
}

func (r *race) wait(delay time.Duration) {
	if r.delay < 0 {
		return
	}
	r.timer.Reset(delay)
}

// errOvertaken is what is wrong with an address that is tried when another one wins that
// was tried after it.
var errOvertaken = &dialError{StageConnect, errors.New("no connection in time")}

// won remembers which address works, and that those tried before it do not: they have
// had more time.
func (r *race) won(winner int) {
	r.name.noteWorks(r.addrs[winner])
	for i := range winner {
		if r.pending[i] != nil {
			r.failed(i, errOvertaken)
		}
	}
	if len(r.failures) > 0 {
		stage, text, _ := r.failures.sum()
		r.served(stage, bounded(text)+"; another address served")
	}
}

func (r *race) failed(i int, err error) {
	r.pending[i]()
	delete(r.pending, i)
	r.name.noteFailed(r.addrs[i])
	r.failures = append(r.failures, failed{r.addrs[i], err})
}

// over remembers, where the time was up, which addresses have kept it waiting, so that
// others have their turn the next time. The last has had the least time, and is left out
// where there is no other to have a turn. That a client has given up says nothing.
func (r *race) over(ctx context.Context) {
	var limit *TimeoutError
	if !errors.As(context.Cause(ctx), &limit) {
		return
	}
	for i := range r.pending {
		if i < r.started-1 || r.started < len(r.addrs) {
			r.name.noteFailed(r.addrs[i])
		}
	}
}

// failures are why none of several addresses works, in the order in which they failed.
type failures []failed

type failed struct {
	addr netip.Addr
	err  error
}

// error returns one error for all.
func (f failures) error() error {
	stage, text, cause := f.sum()
	return &dialError{stage, &allFailed{f, text, cause}}
}

// sum returns the stage that was reached, and the error of the address that got so far,
// with a text that tells of all.
func (f failures) sum() (stage Stage, text string, cause error) {
	stage, cause = StageConnect, f[len(f)-1].err
	texts := make([]string, len(f))
	for i, failed := range f {
		texts[i] = failed.err.Error()
		var dial *dialError
		if errors.As(failed.err, &dial) && dial.stage == StageTLS {
			stage, cause = dial.stage, dial
		}
		if addr := failed.addr.String(); !strings.Contains(texts[i], addr) {
			texts[i] = addr + ": " + texts[i]
		}
	}
	text = strings.Join(texts, "; ")
	if len(f) > 1 {
		text = fmt.Sprintf("%d addresses failed: %s", len(f), text)
	}
	return stage, text, cause
}

// allFailed is the error of several addresses.
type allFailed struct {
	each  failures
	text  string
	cause error
}

func (e *allFailed) Error() string { return e.text }

func (e *allFailed) Unwrap() error { return e.cause }
