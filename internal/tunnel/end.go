package tunnel

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// How a tunnel ends. Each direction ends by itself: its source has said so, or has
// failed, or its destination has.
//
//   - An orderly end is passed on as a half-close when the destination has taken all
//     that came before it. The other direction may finish within linger.
//   - When a source fails, nobody is left to read what comes the other way: that
//     direction is stopped.
//   - When a destination fails, what it had sent before is still in the kernel. The
//     other direction goes on until that has been read, within linger.
//
// When both directions are over, nobody reads from the legs or writes to them any
// more, and each leg settles (see settling): it delivers what is left and only then
// closes.

// verdict says how a direction has ended.
type verdict int

const (
	going        verdict = iota
	orderly              // the source has said so
	sourceFailed         // reset, or its TLS is broken
	destFailed           // it takes nothing any more
	stopped              // it had nothing left to do, or no time
)

// outcome is what is known of a direction when it is over.
type outcome struct {
	verdict verdict
	err     error
	cut     uint64 // bytes that dst has taken, as far as this direction knows, and that were not delivered
}

func outcomeOf(err error) outcome {
	switch {
	case isOrderly(err):
		return outcome{verdict: orderly, err: err}
	case err == errStopped:
		return outcome{verdict: stopped, err: err}
	case errors.Is(err, errWrite):
		return outcome{verdict: destFailed, err: err}
	}
	return outcome{verdict: sourceFailed, err: err}
}

// nextStep is what has to be done when a direction has ended.
type nextStep int

const (
	goOn      nextStep = iota // the other direction does
	stopOther                 // with the error that directionEnded returns
	settle                    // both are over
)

// directionEnded takes down how d has ended and passes an orderly end on. All that d
// has forwarded must have been taken by the leg's connection. It returns what has to
// be done next, and with which error the other direction ends if it is to be
// stopped.
func (t *Tunnel) directionEnded(d *direction, err error) (nextStep, error) {
	if err == io.EOF {
		err = t.realEnd(d)
	}
	end := outcomeOf(err)
	by := d.from
	if end.verdict == destFailed {
		by = t.otherSide(d.from)
	}
	t.mu.Lock()
	t.noteEnd(by, closeAbnormal, endReason(err))
	*t.outcomeOf(d) = end
	t.ended++
	last := t.ended == 2
	if !last {
		t.lingerLocked()
	}
	t.mu.Unlock()
	switch {
	case last:
		return settle, nil
	case end.verdict == sourceFailed:
		return stopOther, errStopped
	case err == io.EOF:
		return t.halfClose(d)
	}
	return goOn, nil
}

// realEnd returns how the source of d has ended, from which reading gave an end in order.
// The system tells only once that a connection was reset or has timed out: here the
// writer, which may not have come to say so. It does not wait for long, as nothing blocks
// who writes to a leg that is gone.
func (t *Tunnel) realEnd(d *direction) error {
	if d.src.gone() {
		if err := t.opposite(d).toldOfBreak(); err != nil {
			return err
		}
	}
	return io.EOF
}

func (t *Tunnel) opposite(d *direction) *direction {
	if d == &t.toRelay {
		return &t.toClient
	}
	return &t.toRelay
}

// halfClose passes the end of d on. Where there is no half-closing, the end of one
// direction is the end of both.
func (t *Tunnel) halfClose(d *direction) (nextStep, error) {
	err := d.writeLast()
	if err == nil {
		err = d.dst.closeWrite()
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return stopOther, errOtherEnded
	}
	if err != nil {
		t.mu.Lock()
		end := t.outcomeOf(d)
		end.verdict, end.err = destFailed, err
		t.mu.Unlock()
	}
	return goOn, nil
}

func (t *Tunnel) otherSide(side string) string {
	if side == ByClient {
		return ByRelay
	}
	return ByClient
}

// outcomeOf returns where the outcome of d is kept. mu is held.
func (t *Tunnel) outcomeOf(d *direction) *outcome {
	if d == &t.toRelay {
		return &t.relayOutcome
	}
	return &t.clientOutcome
}

// legEnd is how a leg ends, when both directions are over.
type legEnd struct {
	how   ending
	into  *direction // leads to the leg
	atEnd bool       // the peer has said that it sends no more
	dead  bool       // the leg takes nothing any more

	// until says by when it has to be over. That comes earlier if the tunnel is cut
	// off meanwhile.
	until func() time.Time
}

// legEnds returns how the client's and the relay's legs end.
func (t *Tunnel) legEnds() (client, relay legEnd) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cutoff = t.endsByLocked() // it is the same from now on
	toRelay, toClient := t.relayOutcome, t.clientOutcome
	client = endOfLeg(toClient, toRelay)
	relay = endOfLeg(toRelay, toClient)
	client.into, relay.into = &t.toClient, &t.toRelay
	client.until, relay.until = t.endsBy, t.endsBy
	t.aborted = client.how == endAbort || relay.how == endAbort
	return client, relay
}

// endsBy is when all that is left has to be over.
func (t *Tunnel) endsBy() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endsByLocked()
}

func (t *Tunnel) endsByLocked() time.Time {
	if !t.cutoff.IsZero() {
		return t.cutoff
	}
	return time.Now().Add(linger)
}

// endOfLeg says how a leg ends, by the outcome of the direction that leads to it and
// of the one that leaves it.
func endOfLeg(into, from outcome) legEnd {
	end := legEnd{how: endForced, atEnd: from.err == io.EOF, dead: broken(from) || into.verdict == destFailed}
	switch {
	case abnormal(from, into):
		end.how = endAbort
	case into.verdict == orderly:
		end.how = endClean
	}
	return end
}

// broken reports whether the connection that from leaves has broken. The system says
// so only once: settling would wait in vain for what is not acknowledged.
func broken(from outcome) bool {
	_, bySystem := errors.AsType[syscall.Errno](from.err)
	return bySystem && from.verdict == sourceFailed
}

// abnormal reports whether the end of the other leg was not an orderly one, which
// this one's peer is to see. into is the outcome of the direction that leads to that
// other leg, from of the one that leaves it.
//
// Writing to a peer that has closed its connection fails with EPIPE if its end had
// come, in order, before its reset, and with ECONNRESET if it had not. That error
// comes only once: reading gives an orderly end afterwards in both cases.
func abnormal(into, from outcome) bool {
	if from.verdict == sourceFailed {
		return true
	}
	if into.verdict != destFailed {
		return false
	}
	return from.verdict != orderly || !errors.Is(into.err, syscall.EPIPE)
}

// settleLegs lets both legs deliver what is left and closes them. It returns when
// they are closed. Nobody reads from them any more.
func (t *Tunnel) settleLegs() {
	client, relay := t.legEnds()
	var both sync.WaitGroup
	both.Go(func() { t.settleLeg(t.relay, relay) })
	t.settleLeg(t.client, client)
	both.Wait()
}

func (t *Tunnel) settleLeg(leg Leg, end legEnd) {
	leg.limitWriting(end.until())
	lost := end.into.seal()
	t.noteCut(end.into, lost+leg.settle(end))
}

// noteCut takes down that n bytes which d has forwarded have not been delivered, or
// may not have been.
func (t *Tunnel) noteCut(d *direction, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcomeOf(d).cut = min(uint64(max(n, 0)), d.bytes.Load())
}

// endReason says why a direction has ended, without the addresses that net puts
// into its errors: whoever masks them does not want them in the logs either. Nor has
// it any words of a peer's, such as the names in a relay's new certificate.
func endReason(err error) string {
	if isOrderly(err) {
		return "end of stream"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "certificate not trusted"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err.Error()
	}
	return err.Error()
}
