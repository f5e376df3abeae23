package main

import (
	"errors"
	"io"
	"time"
)

// runEnder sends, ends the tunnel, and returns how much was accepted.
func (t *tunnel) runEnder() (accepted int64) {
	e := t.ender
	_ = e.conn.SetDeadline(time.Now().Add(patience))
	go func() {
		defer close(t.read)
		if t.reads {
			e.receive(func() { close(t.answered) })
		}
	}()
	// If the proxy ends the tunnel first, the ender still makes its end.
	for e.sent < t.upload && e.send(1+t.sizes.IntN(mostFrame)) == nil {
	}
	accepted = t.end(t)
	_ = e.ledger.Close()
	<-t.read
	return accepted
}

// account returns how much of the ender's payload the proxy has, and notes
// whether it has the Close frame.
func (t *tunnel) account() (accepted int64) {
	l := t.ender.ledger
	wire, err := l.acknowledged()
	if err != nil {
		return 0 // It is closed, which only happens here.
	}
	t.closeAccepted = t.closeWire > 0 && wire >= t.closeWire
	return payloadAt(l.entries, wire)
}

func (t *tunnel) sendClose() {
	if t.ender.sendClose() == nil {
		t.closeWire = t.ender.ledger.written.Load()
	}
}

// awaitEnd lets the ender read to the end, and takes account.
func (t *tunnel) awaitEnd() int64 {
	_ = t.ender.conn.SetReadDeadline(time.Now().Add(linger))
	<-t.read
	return t.account()
}

func (t *tunnel) endWithClose() int64 {
	t.sendClose()
	_ = t.ender.conn.SetReadDeadline(time.Now().Add(linger))
	select {
	case <-t.answered:
	case <-t.read:
	}
	_ = t.ender.end()
	return t.awaitEnd()
}

func (t *tunnel) endInOrder() int64 {
	_ = t.ender.end()
	return t.awaitEnd()
}

func (t *tunnel) endWithFIN() int64 {
	_ = t.ender.ledger.CloseWrite()
	return t.awaitEnd()
}

func (t *tunnel) endWithinFrame() int64 {
	_ = t.ender.sendPart(1000)
	return t.endInOrder()
}

func (t *tunnel) endWithReset() int64 {
	accepted := t.account()
	t.ender.reset()
	return accepted
}

func (t *tunnel) endWithCloseAndReset() int64 {
	t.sendClose()
	return t.endWithReset()
}

// endWithCloseAndGo closes the connection in order but at once. The kernel
// resets it nevertheless if something has come, or comes, that nobody reads.
func (t *tunnel) endWithCloseAndGo() int64 {
	t.sendClose()
	_ = t.ender.end()
	return t.account()
}

func (t *tunnel) endAfterAcknowledged() int64 {
	for deadline := time.Now().Add(linger); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if t.account() == t.ender.sent {
			break
		}
	}
	return t.endWithReset()
}

// runPeer sends and reads until it sees the end, makes its own end in order,
// and returns how much of what it sent was accepted.
func (t *tunnel) runPeer() (accepted int64) {
	e := t.peer
	defer e.ledger.Close()
	_ = e.conn.SetDeadline(time.Now().Add(patience))
	go func() {
		<-t.over
		_ = e.conn.SetReadDeadline(time.Now().Add(linger))
	}()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		t.sendBack(stop)
	}()
	finish := func() {
		close(stop)
		_ = e.conn.SetWriteDeadline(time.Now().Add(linger))
		<-stopped
	}
	time.Sleep(t.pause)
	e.receive(func() {
		finish()
		_ = e.sendClose()
		_ = e.end()
	})
	if !e.received.closed {
		finish()
		if errors.Is(e.received.err, io.EOF) {
			for began := e.sent; t.replies && e.sent < began+replySize && e.send(mostFrame) == nil; {
			}
			_ = e.end()
		}
	}
	<-t.over
	accepted, _ = e.ledger.accepted()
	return accepted
}

// sendBack sends what the peer sends until it is stopped.
func (t *tunnel) sendBack(stop chan struct{}) {
	for t.sends != silence && t.peer.sent < mostStream {
		size, pause := mostFrame, time.Duration(0)
		if t.sends == chatter {
			size, pause = 100, 5*time.Millisecond
		}
		if t.peer.send(size) != nil {
			return
		}
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
	}
}
