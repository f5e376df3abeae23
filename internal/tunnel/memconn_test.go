package tunnel

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// memConn is one end of a TCP connection in memory, for use in a synctest bubble:
// whoever waits in it waits durably. It can be closed for writing and reset.
type memConn struct {
	in, out *memPipe
	reset   atomic.Bool // by Close, for lack of linger
}

// memPair returns both ends of a connection that has room for size bytes each way.
func memPair(size int) (a, b *memConn) {
	there, back := newMemPipe(size), newMemPipe(size)
	return &memConn{in: back, out: there}, &memConn{in: there, out: back}
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *memConn) CloseWrite() error {
	c.out.endWriting(io.EOF)
	return nil
}

// Close sends what a socket would send: FIN, or RST after SetLinger(0).
func (c *memConn) Close() error {
	if c.reset.Load() {
		c.out.endWriting(syscall.ECONNRESET)
		c.in.endReading(syscall.ECONNRESET)
		return nil
	}
	c.out.endWriting(io.EOF)
	c.in.endReading(syscall.EPIPE)
	return nil
}

func (c *memConn) SetLinger(seconds int) error {
	c.reset.Store(seconds == 0)
	return nil
}

// abort resets the connection.
func (c *memConn) abort() {
	c.SetLinger(0)
	c.Close()
}

// buffered is what could be read at once.
func (c *memConn) buffered() []byte {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return bytes.Clone(c.in.data)
}

// takeNoMore fails what the other end writes, and nothing else.
func (c *memConn) takeNoMore() { c.in.endReading(syscall.EPIPE) }

// A memConn is a wire: it tells what has not been read, as a socket would.

func (c *memConn) held() int { return 0 }

func (c *memConn) unsent() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return len(c.out.data)
}

func (c *memConn) gone() bool { return false }

func (c *memConn) discard() error {
	var err error
	c.in.change(func() {
		c.in.data = nil
		err = c.in.readError
	})
	return err
}

func (c *memConn) LocalAddr() net.Addr         { return &net.TCPAddr{} }
func (c *memConn) RemoteAddr() net.Addr        { return &net.TCPAddr{} }
func (c *memConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

func (c *memConn) SetReadDeadline(at time.Time) error {
	c.in.change(func() { c.in.readBy = at })
	return nil
}

func (c *memConn) SetWriteDeadline(at time.Time) error {
	c.out.change(func() { c.out.writeBy = at })
	return nil
}

// memPipe is one direction of a memConn.
type memPipe struct {
	mu         sync.Mutex
	changed    chan struct{} // closed at each change
	data       []byte
	size       int
	readError  error // when data is used up; at once if it is ECONNRESET
	writeError error
	closedHere bool // by the reader
	readBy     time.Time
	writeBy    time.Time
}

func newMemPipe(size int) *memPipe { return &memPipe{size: size, changed: make(chan struct{})} }

// change does what do says under the lock and wakes all who wait.
func (p *memPipe) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	close(p.changed)
	p.changed = make(chan struct{})
}

// until waits for ready, which is called under the lock, or for the deadline that is
// set at by.
func (p *memPipe) until(by *time.Time, ready func() bool) error {
	for {
		p.mu.Lock()
		changed, ok, deadline := p.changed, ready(), *by
		p.mu.Unlock()
		if ok {
			return nil
		}
		var late <-chan time.Time
		if !deadline.IsZero() {
			rest := time.Until(deadline)
			if rest <= 0 {
				return os.ErrDeadlineExceeded
			}
			late = time.After(rest)
		}
		select {
		case <-changed:
		case <-late:
		}
	}
}

func (p *memPipe) read(b []byte) (n int, err error) {
	late := p.until(&p.readBy, func() bool {
		switch {
		case p.closedHere:
			err = net.ErrClosed
		case p.readError == syscall.ECONNRESET:
			err = p.readError
		case len(p.data) > 0:
			n = copy(b, p.data)
			p.data = p.data[n:]
		default:
			err = p.readError
		}
		return n > 0 || err != nil
	})
	if late != nil {
		return 0, late
	}
	p.change(func() {})
	return n, err
}

func (p *memPipe) write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		late := p.until(&p.writeBy, func() bool {
			m, err = min(len(b)-n, p.size-len(p.data)), p.writeError
			if err != nil {
				m = 0
			}
			p.data = append(p.data, b[n:n+m]...)
			return m > 0 || err != nil
		})
		if late != nil {
			return n, late
		}
		n += m
		p.change(func() {})
	}
	return n, err
}

// endWriting: the reader gets err, after the data or, if it is a reset, at once.
func (p *memPipe) endWriting(err error) {
	p.change(func() {
		if p.readError == nil || err == syscall.ECONNRESET {
			p.readError = err
		}
		p.writeError = net.ErrClosed
	})
}

// endReading: the writer gets err.
func (p *memPipe) endReading(err error) {
	p.change(func() {
		p.closedHere = true
		if p.writeError == nil {
			p.writeError = err
		}
	})
}
