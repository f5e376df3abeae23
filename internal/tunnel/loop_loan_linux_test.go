package tunnel

import (
	"errors"
	"runtime/debug"
	"strings"
	"testing"
)

// inLoop calls f in the loop of l, and waits.
func (l *loopTunnel) inLoop(f func(p *pair)) {
	p := l.engine.(*pair)
	done := make(chan struct{})
	p.loop.post(func() {
		defer close(done)
		f(p)
	})
	<-done
}

// What is posted before a loan and comes up after it has begun is for the borrower.
func TestLoopPostBeforeLoan(t *testing.T) {
	l := openLoopTunnel(t, newLoopFixture(t), false, false)
	caller := make(chan string, 1)
	l.inLoop(func(p *pair) {
		p.post(func() { caller <- string(debug.Stack()) })
		if !p.lend() {
			t.Error("not lent")
		}
	})
	if stack := <-caller; !strings.Contains(stack, ".borrow(") && !strings.Contains(stack, ".takeBack(") {
		t.Errorf("called by the loop while the pair was lent:\n%s", stack)
	}
	reset(l.client)
	l.relay.Close()
	l.Wait()
}

// A tunnel that ends as it comes back from a loan is counted out once: a loop that
// counts too few ends before its last tunnel, which then waits for ever.
func TestLoopEndsWithLoan(t *testing.T) {
	r := newLoopFixture(t)
	other := openLoopTunnel(t, r, false, false)
	l := openLoopTunnel(t, r, false, false)
	l.inLoop(func(p *pair) {
		p.lent = true
		p.posted = append(p.posted, func() { p.abandon(errors.New("a fault")) })
		p.takeBack()
	})
	l.client.Close()
	l.relay.Close()
	l.Wait()
	reset(other.client)
	other.relay.Close()
	other.Wait()
}

// However often a tunnel has been lent while the loop was busy, it has one turn among
// the others.
func TestLoopQueuesOnce(t *testing.T) {
	l := openLoopTunnel(t, newLoopFixture(t), false, false)
	l.inLoop(func(p *pair) {
		for range 5 {
			p.relay.enqueue()
			p.lent = true
			p.relay.queued = true // as turns does for what has more to do
			p.takeBack()
		}
		entries := 0
		for _, s := range p.loop.queue.socks[p.loop.queue.first:] {
			if s == p.relay {
				entries++
			}
		}
		if entries != 1 {
			t.Errorf("it is in the queue %d times", entries)
		}
	})
	reset(l.client)
	l.relay.Close()
	l.Wait()
}
