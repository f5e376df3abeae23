package tunnel

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quantum is how many bytes a leg may send on in one turn, and maxPieces in how
	// many pieces. Either takes some 0.3 ms between TLS legs.
	quantum   = 64 << 10
	maxPieces = 16

	// maxHandshake is how much of a TLS message after the handshake may wait for
	// its end: a session ticket, in practice, of a few KiB.
	maxHandshake = 16 << 10
)

var errHandshakeTooLong = errors.New("a TLS handshake message is too long")

// begin begins to read. Something may be there already.
func (s *sock) begin() {
	s.unpause()
	s.input = true
	s.enqueue()
}

// ready is called by the loop when epoll has something to say of s.
func (s *sock) ready(events uint32) {
	if s.pair.lent {
		return // epoll says it again when it is asked again
	}
	if events&^unix.EPOLLOUT != 0 {
		s.input = true
	}
	s.enqueue()
}

// enqueue has s get a turn.
func (s *sock) enqueue() {
	if s.queued {
		return
	}
	s.queued = true
	if !s.pair.lent {
		s.loop.queue.push(s)
	}
}

// turn writes what is held back and then carries a bounded amount of what has come.
// It reports whether there may be more to do without waiting for an event.
func (s *sock) turn(h *hands) (more bool) {
	if s.settling != nil {
		return false
	}
	s.deliver()
	if s.ended || !s.input || s.atEnd != nil {
		return false
	}
	more = s.forwardInput(h)
	switch {
	case more:
		s.fullTurns++
	case !s.input:
		s.fullTurns = 0
	}
	return more
}

// deliver writes the backlog. When that is gone, the other leg may go on.
func (s *sock) deliver() {
	left, err := s.flush()
	switch {
	case s.peer.ended:
	case err != nil:
		s.peer.endFrom(fmt.Errorf("%w: %w", errWrite, err))
	case left == 0 && s.peer.atEnd != nil:
		s.peer.endFrom(s.peer.atEnd)
	case left == 0 && s.peer.paused:
		s.peer.unpause()
	}
	if s.paused && s.mayRead() {
		s.unpause()
	}
}

// mayRead reports whether there is room for what s would read, and for what reading
// makes crypto/tls write.
func (s *sock) mayRead() bool {
	return s.peer.backlogSize() == 0 && s.backlogSize() <= maxBacklog
}

// pause stops reading until deliver has made room.
func (s *sock) pause() {
	s.paused = true
	_ = s.setReading(false) // what cannot be left alone is not read from, either
}

func (s *sock) unpause() {
	s.paused = false
	if s.ended || s.atEnd != nil {
		return
	}
	if err := s.setReading(true); err != nil {
		s.endFrom(err)
		return
	}
	if s.input {
		s.enqueue()
	}
}

// forwardInput forwards what s has to give, without waiting, and no more than a quantum.
func (s *sock) forwardInput(h *hands) (more bool) {
	left := quantum
	for pieces := 0; left > 0 && pieces < maxPieces; pieces++ {
		if !s.mayRead() {
			s.pause()
			return false
		}
		n, err := s.receive(h)
		if n > 0 {
			left -= n
			s.pair.tunnel.touch()
			if werr := s.from.forward(h.buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil && err != errWouldBlock {
			s.endAfterBacklog(err)
			return false
		}
		if err != nil || !s.moreInput() {
			s.input = false // epoll tells when there is more
			return false
		}
	}
	return true
}

// moreInput reports whether there is more to read already, of which epoll would not
// tell, or may be.
func (s *sock) moreInput() bool {
	return s.full || len(s.leg.pending) > 0 || s.tls != nil && holdsInput(s.tls)
}

// receive reads from the leg.
func (s *sock) receive(h *hands) (n int, err error) {
	switch {
	case len(s.leg.pending) > 0:
		n = copy(h.buf[:], s.leg.pending)
		if s.leg.pending = s.leg.pending[n:]; len(s.leg.pending) == 0 {
			s.leg.pending, s.full = nil, true // more may have come meanwhile
		}
		return n, nil
	case s.tls == nil:
		return s.readSocket(h.buf[:])
	}
	return s.receiveTLS(h)
}

// receiveTLS gives crypto/tls a buffer for its input just as long as it needs one. Of
// a record that has not come whole it keeps as much as has come.
func (s *sock) receiveTLS(h *hands) (int, error) {
	if s.record == nil && !holdsInput(s.tls) {
		s.record = h.takeRecord()
		lendRecord(s.tls, s.record, s.partial)
	}
	n, err := s.tls.Read(h.buf[:])
	trimHandshake(s.tls)
	switch {
	case !holdsInput(s.tls):
		s.takeRecordBack(h)
		s.partial = nil
	case err == errWouldBlock:
		s.takeRecordBack(h)
	}
	return n, err
}

func (s *sock) takeRecordBack(h *hands) {
	s.partial = takeRecordBack(s.tls, s.partial[:0])
	if s.record != nil {
		h.giveRecord(s.record)
		s.record = nil
	}
}

// endAfterBacklog ends the direction that leaves s when the other leg has taken
// what came before an orderly end.
func (s *sock) endAfterBacklog(err error) {
	if isOrderly(err) && s.peer.backlogSize() > 0 {
		s.atEnd = err
		_ = s.setReading(false)
		return
	}
	s.endFrom(err)
}

// stop ends the direction that leaves s because its time is up.
func (s *sock) stop() {
	if s.atEnd != nil {
		s.endFrom(s.atEnd)
		return
	}
	s.endFrom(errStopped)
}

// endFrom ends the direction that leaves s, once.
func (s *sock) endFrom(err error) {
	if s.ended {
		return
	}
	s.ended, s.input = true, false
	_ = s.setReading(false)
	s.dropInput()
	next, err := s.pair.tunnel.directionEnded(s.from, err)
	switch next {
	case settle:
		s.pair.settle()
	case stopOther:
		s.peer.endFrom(err)
	}
}

// dropInput lets go of what nobody is going to read.
func (s *sock) dropInput() {
	s.leg.pending, s.partial = nil, nil
	if s.tls != nil {
		takeRecordBack(s.tls, nil)
		giveRecord(s.record)
		s.record = nil
	}
}

// settle begins the last phase of the leg. It goes by the clock: epoll has nothing to
// say of what the peer has acknowledged.
func (s *sock) settle(end legEnd) {
	lost := end.into.seal()
	if end.how == endClean && !end.dead {
		s.leg.sayGoodbye(end.until()) // does not wait: what is not taken joins the backlog
	}
	s.settling = newSettling(end, s, s.tls != nil)
	s.settling.cut = lost
	if err := s.setLent(true); err != nil {
		s.settling.dead = true
	}
	s.continueSettling()
}

func (s *sock) continueSettling() {
	for {
		again, over := s.settling.step(time.Now())
		switch {
		case over:
			s.settled = true
			s.pair.tunnel.noteCut(s.settling.into, s.settling.cut)
			s.pair.legSettled()
			return
		case again > 0:
			time.AfterFunc(again, func() { s.pair.post(s.continueSettling) })
			return
		}
	}
}
