//go:build unix

package reloadtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// peer is one end of a tunnel, the client or the relay. Its reader runs in one
// goroutine; whoever holds writing is its writer.
type peer struct {
	conn   io.ReadWriteCloser
	r      strictReader
	id     uint64
	client bool // masks its frames

	writing sync.Mutex // protects what follows, and the order of frames
	sent    uint64     // messages

	mu   sync.Mutex // protects what follows
	more sync.Cond
	got  uint64 // messages
	end  end
	over bool
}

// end is how a peer's leg came to its end.
type end struct {
	code int       // of the Close frame that came; 0 for none
	at   time.Time // when that came, or the end of the stream
	err  error     // what was wrong, if anything
}

func (e end) String() string {
	return fmt.Sprintf("code %d, error %v", e.code, e.err)
}

func newPeer(conn io.ReadWriteCloser, r *bufio.Reader, id uint64, client bool) *peer {
	p := &peer{conn: conn, id: id, client: client, r: strictReader{Reader: r, masked: !client}}
	p.more.L = &p.mu
	return p
}

// run reads until the leg ends, checks what comes and gives each message to
// handle. A Close frame is answered as RFC 6455 asks: once the message that is
// being sent is finished.
func (p *peer) run(handle func(message []byte) error) {
	e := p.read(handle)
	p.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end, p.over = e, true
	p.more.Broadcast()
}

func (p *peer) read(handle func([]byte) error) (e end) {
	var whole []byte
	for {
		f, err := p.r.next()
		e.at = time.Now()
		if err != nil {
			e.err = err
			return e
		}
		switch {
		case f.opcode == opClose:
			e.code = f.code()
			e.err = p.answerClose(f)
			return e
		case f.opcode&0x8 != 0:
			continue
		case !f.fin:
			whole = append(whole, f.payload...)
			continue
		case f.opcode == opContinuation:
			f.payload = append(whole, f.payload...)
			whole = nil
		}
		if e.err = checkMessage(f.payload, p.id, p.received()); e.err != nil {
			return e
		}
		// Counted before it is answered: whoever has the answer can rely on the count.
		p.mu.Lock()
		p.got++
		p.more.Broadcast()
		p.mu.Unlock()
		if e.err = handle(f.payload); e.err != nil {
			return e
		}
	}
}

// received returns how many messages have come.
func (p *peer) received() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got
}

// answerClose answers the Close frame f and waits for the end of the stream,
// before which nothing may come.
func (p *peer) answerClose(f frame) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	// The answer may find the leg closed: the proxy waits for it, but not for ever.
	_, _ = p.conn.Write(closing(uint16(f.code())).encode(p.client))
	if c, ok := p.conn.(interface{ CloseWrite() error }); ok && !p.client {
		_ = c.CloseWrite()
	}
	if _, err := p.r.next(); err != io.EOF && !isReset(err) {
		return fmt.Errorf("after the Close frame: %w", err)
	}
	return nil
}

// isReset: the other side closed before it had read all that was on its way.
func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// send writes the next message in n frames.
func (p *peer) send(size, n int) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.sendLocked(size, n)
}

func (p *peer) sendLocked(size, n int) error {
	var wire []byte
	for _, f := range fragments(message(p.id, p.sent, size), n) {
		wire = append(wire, f.encode(p.client)...)
	}
	p.sent++
	_, err := p.conn.Write(wire)
	return err
}

// sendSlowly writes a message of n frames in steps pieces, one at each tick.
func (p *peer) sendSlowly(size, n, steps int, tick <-chan time.Time) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	var wire []byte
	for _, f := range fragments(message(p.id, p.sent, size), n) {
		wire = append(wire, f.encode(p.client)...)
	}
	p.sent++
	for i := range steps {
		if _, err := p.conn.Write(wire[len(wire)*i/steps : len(wire)*(i+1)/steps]); err != nil {
			return err
		}
		<-tick
	}
	return nil
}

// sendHalf writes half of a message, in the middle of a frame. The returned
// function writes the rest.
func (p *peer) sendHalf(size int) (rest func() error, err error) {
	p.writing.Lock()
	wire := frame{fin: true, opcode: opBinary, payload: message(p.id, p.sent, size)}.encode(p.client)
	p.sent++
	if _, err := p.conn.Write(wire[:len(wire)/2]); err != nil {
		p.writing.Unlock()
		return nil, err
	}
	return func() error {
		defer p.writing.Unlock()
		_, err := p.conn.Write(wire[len(wire)/2:])
		return err
	}, nil
}

// awaitAll returns when all that was sent has come back, or with the end of the
// leg, or after the timeout.
func (p *peer) awaitAll(timeout time.Duration) error {
	p.writing.Lock()
	want := p.sent
	p.writing.Unlock()
	late := false
	timer := time.AfterFunc(timeout, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.more.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.got < want && !p.over && !late {
		p.more.Wait()
	}
	if p.over || p.got < want {
		return fmt.Errorf("tunnel %d: %d of %d messages came back; over: %t, %v", p.id, p.got, want, p.over, p.end)
	}
	return nil
}

// awaitEnd returns how the leg ended; ok is false if it has not.
func (p *peer) awaitEnd(timeout time.Duration) (e end, ok bool) {
	late := false
	timer := time.AfterFunc(timeout, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.more.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.over && !late {
		p.more.Wait()
	}
	return p.end, p.over
}
