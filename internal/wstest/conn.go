package wstest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Patience is how long each connection here lives, and so how long a test waits for
// what must happen. Nothing depends on how long that takes. SetDeadline changes it
// for one connection.
const Patience = 30 * time.Second

// Conn is one end of a TCP or TLS connection that is in a test's hands. It counts
// what is written and read, leaves HTTP and WebSocket to the test, and can end in
// each way in which a connection can end.
//
// One goroutine at a time may read and one may write, unless a method says otherwise.
type Conn struct {
	net.Conn // TLS, or TCP as Raw returns it

	// R is where all that comes must be read from: it may have read ahead.
	R *bufio.Reader

	// Frames reads the WebSocket frames that come, once there has been a handshake.
	Frames *Reader

	client         bool
	raw            net.Conn
	sent, received atomic.Int64
	writing        sync.Mutex // held while frames are written
}

// NewConn returns the end of a connection that a test has made by itself. A client
// masks its frames.
func NewConn(conn net.Conn, client bool) *Conn {
	c := &Conn{Conn: conn, raw: conn, client: client}
	for {
		inner, ok := c.raw.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c.raw = inner.NetConn()
	}
	c.R = bufio.NewReader(c)
	c.Frames = NewReader(c.R, !client)
	return c
}

// Dialer says how to connect.
type Dialer struct {
	// TLS is the client's side of TLS; none if nil.
	TLS *tls.Config

	// Preamble goes out before TLS begins, such as a PROXY protocol header.
	Preamble string

	// ReadBuffer and WriteBuffer are the sizes of the socket's buffers in bytes, the
	// system's if zero. With a small ReadBuffer a client that does not read holds up
	// its sender soon.
	ReadBuffer, WriteBuffer int
}

// Dial connects to address as a client. network is tcp or unix.
func (d Dialer) Dial(ctx context.Context, network, address string) (*Conn, error) {
	var dialer net.Dialer
	dialer.Control = func(_, _ string, c syscall.RawConn) error { return d.setBuffers(c) }
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := d.prepare(ctx, &conn); err != nil {
		conn.Close()
		return nil, err
	}
	return NewConn(conn, true), nil
}

func (d Dialer) prepare(ctx context.Context, conn *net.Conn) error {
	if err := (*conn).SetDeadline(time.Now().Add(Patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(*conn, d.Preamble); err != nil {
		return err
	}
	if d.TLS == nil {
		return nil
	}
	secure := tls.Client(*conn, d.TLS)
	*conn = secure
	return secure.HandshakeContext(ctx)
}

// Read reads past R, which must hold nothing.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// Write counts and writes p.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// Sent and Received return how many bytes, inside TLS, have been written and read,
// those that R holds included. They may be called at any time.
func (c *Conn) Sent() int64     { return c.sent.Load() }
func (c *Conn) Received() int64 { return c.received.Load() }

// Raw returns the connection below TLS.
func (c *Conn) Raw() net.Conn { return c.raw }

// CloseWrite ends what is sent, in order: by close_notify in TLS, by FIN otherwise.
// What comes can still be read.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Reset ends the connection the abnormal way, with RST. What the socket still holds
// is lost.
func (c *Conn) Reset() error {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return c.raw.Close()
}

// Drop closes the connection without close_notify, as a process does that dies. To
// a reader that uses crypto/tls this is an orderly end.
func (c *Conn) Drop() error { return c.raw.Close() }

// WriteSlowly writes p in pieces of size bytes, the next one each time that pace,
// which may wait for whatever the test likes, returns nil.
func (c *Conn) WriteSlowly(p []byte, size int, pace func() error) error {
	for len(p) > 0 {
		piece := p[:min(size, len(p))]
		if _, err := c.Write(piece); err != nil {
			return err
		}
		if p = p[len(piece):]; len(p) == 0 {
			return nil
		}
		if err := pace(); err != nil {
			return err
		}
	}
	return nil
}

// ReadExactly reads n bytes.
func (c *Conn) ReadExactly(n int) ([]byte, error) {
	p := make([]byte, n)
	got, err := io.ReadFull(c.R, p)
	return p[:got], err
}

// ReadToEnd reads until the other side has ended. The error is nil if that was in
// order.
func (c *Conn) ReadToEnd() ([]byte, error) { return io.ReadAll(c.R) }

// Send writes whole frames, in one write. It may be called by several goroutines at a
// time.
func (c *Conn) Send(frames ...Frame) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.Write(Encode(c.client, frames...))
	return err
}

// Next returns the next frame.
func (c *Conn) Next() (Frame, error) { return c.Frames.Next() }

// IsReset reports whether err is how a connection ends that was reset, on this side's
// reads or writes.
func IsReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// NextCode reads until a Close frame and returns its code, or Abnormal with the error
// that came first.
func (c *Conn) NextCode() (int, error) {
	for {
		f, err := c.Next()
		switch {
		case err != nil:
			return Abnormal, err
		case f.Opcode == Close:
			return f.Code(), nil
		}
	}
}

// Rest is a connection without what R has read of it: TLS, for instance, can begin on
// it after a line was read.
type Rest struct{ *Conn }

// Read reads what R holds first.
func (r Rest) Read(p []byte) (int, error) { return r.R.Read(p) }
