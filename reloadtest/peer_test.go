//go:build unix

package reloadtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// peer is one end of a tunnel, the client or the relay. Its reader runs in one
// goroutine; whoever holds writing is its writer.
type peer struct {
	conn   io.ReadWriteCloser
	r      *wstest.Reader
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

// newPeer reads conn through r, which may have read ahead.
func newPeer(conn io.ReadWriteCloser, r io.Reader, id uint64, client bool) *peer {
	p := &peer{conn: conn, id: id, client: client, r: wstest.NewReader(r, !client)}
	p.more.L = &p.mu
	return p
}

// run reads until the leg ends, checks what comes and gives each message to
// handle. It replies to a Close frame as RFC 6455 asks: once the message that is being
// sent is finished.
func (p *peer) run(handle func(message []byte) error) {
	e := p.read(handle)
	p.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end, p.over = e, true
	p.more.Broadcast()
}

func (p *peer) read(handle func([]byte) error) (e end) {
	for {
		m, err := p.r.NextMessage()
		e.at = time.Now()
		if err != nil {
			e.err = err
			return e
		}
		if m.Opcode == wstest.Close {
			e.code = m.Code()
			e.err = p.replyToClose(m)
			return e
		}
		if e.err = wstest.CheckMessage(m.Payload, p.id, p.received()); e.err != nil {
			return e
		}
		// Counted before it is sent back: whoever has the echo can rely on the count.
		p.mu.Lock()
		p.got++
		p.more.Broadcast()
		p.mu.Unlock()
		if e.err = handle(m.Payload); e.err != nil {
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

// replyToClose sends a Close frame back and waits for the end of the stream, before
// which nothing may come.
func (p *peer) replyToClose(f wstest.Frame) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	// The leg may be closed by now: the proxy waits for the reply, but not for ever.
	_ = p.write(wstest.CloseFrame(f.Code()))
	if c, ok := p.conn.(interface{ CloseWrite() error }); ok && !p.client {
		_ = c.CloseWrite()
	}
	if _, err := p.r.Next(); err != io.EOF && !isReset(err) {
		return fmt.Errorf("after the Close frame: %w", err)
	}
	return nil
}

// write writes frames in one write. p.writing is held.
func (p *peer) write(frames ...wstest.Frame) error {
	_, err := p.conn.Write(wstest.Encode(p.client, frames...))
	return err
}

// next returns the frames of the next message. p.writing is held.
func (p *peer) next(size, n int) []wstest.Frame {
	p.sent++
	return wstest.Fragments(wstest.Binary, wstest.StampedMessage(p.id, p.sent-1, size), n)
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

func (p *peer) sendLocked(size, n int) error { return p.write(p.next(size, n)...) }

// sendSlowly writes a message of n frames in steps pieces, one at each tick.
func (p *peer) sendSlowly(size, n, steps int, tick <-chan time.Time) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	wire := wstest.Encode(p.client, p.next(size, n)...)
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
	wire := wstest.Encode(p.client, p.next(size, 1)...)
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await(timeout, func() bool { return p.got >= want })
	if p.over || p.got < want {
		return fmt.Errorf("tunnel %d: %d of %d messages came back; over: %t, %v", p.id, p.got, want, p.over, p.end)
	}
	return nil
}

// awaitEnd returns how the leg ended; ok is false if it has not.
func (p *peer) awaitEnd(timeout time.Duration) (e end, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.await(timeout, func() bool { return false })
	return p.end, p.over
}

// await waits until done, the end of the leg, or the timeout. p.mu is held.
func (p *peer) await(timeout time.Duration, done func() bool) {
	late := false
	timer := time.AfterFunc(timeout, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.more.Broadcast()
	})
	defer timer.Stop()
	for !done() && !p.over && !late {
		p.more.Wait()
	}
}
