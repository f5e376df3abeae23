package relay

import (
	"context"
	"sync"
	"time"
)

// Limit bounds how long a relay may keep a request waiting: for a connection, for
// taking each piece of the body, and for the head of its response. The time that
// the client takes for its body does not count.
type Limit struct {
	// Context is done when the time is up, with a *TimeoutError as its cause.
	Context context.Context

	cancel context.CancelCauseFunc
	after  time.Duration
	timer  *time.Timer

	mu   sync.Mutex // protects over: a transport may go on reading the body
	over bool
}

// NewLimit starts the time.
func NewLimit(parent context.Context, after time.Duration) *Limit {
	ctx, cancel := context.WithCancelCause(parent)
	l := &Limit{Context: ctx, cancel: cancel, after: after}
	l.timer = time.AfterFunc(after, l.expire)
	return l
}

func (l *Limit) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.cancel(&TimeoutError{l.after})
	}
}

// Pause leaves out the time until Resume, which starts again from the beginning.
func (l *Limit) Pause() { l.timer.Stop() }

// Resume ends a Pause.
func (l *Limit) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.timer.Reset(l.after)
	}
}

// Stop says that the head of the response has come, and reports whether it came in
// time. What comes later has no limit.
func (l *Limit) Stop() (inTime bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.timer.Stop()
	return l.Context.Err() == nil
}

// Fail ends the request with cause, unless the head of the response has come.
func (l *Limit) Fail(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.cancel(cause)
	}
}

// EndWith cancels the request when ctx ends as well.
func (l *Limit) EndWith(ctx context.Context) (release func() bool) {
	return context.AfterFunc(ctx, func() { l.Cancel(context.Cause(ctx)) })
}

// Cancel ends the request with cause, whatever has come. The first cause counts.
func (l *Limit) Cancel(cause error) { l.cancel(cause) }

// End releases the context, and with it what is left of the request.
func (l *Limit) End() {
	l.Stop()
	l.cancel(nil)
}
