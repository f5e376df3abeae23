package tunnel

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// Leg is one end of a tunnel: the connection or stream to the client, or the
// connection to the relay. ConnLeg and StreamLeg make one.
//
// Each leg has one reader (the direction that leaves it) and one writer (the
// direction that leads to it); closeWrite belongs to the writer. When both are over,
// settle ends the leg.
type Leg interface {
	// receive waits for bytes and returns them in a buffer from the pool, which
	// the caller gives back. Bytes and an error may come together; the buffer is
	// nil when there are none.
	receive() (*buffer, int, error)

	// Write writes all of p or returns an error.
	io.Writer

	// closeWrite tells the peer that nothing more will come.
	closeWrite() error

	// stopReading has receive return, soon, with os.ErrDeadlineExceeded. A receive
	// that begins at the same time may take no notice.
	stopReading()

	// limitWriting has Write fail from then on.
	limitWriting(until time.Time)

	// unsent returns how many bytes the system holds for the peer, as far as that can
	// be known. It can be called at any time.
	unsent() int

	// gone reports whether the system has given up the connection, as far as that can
	// be known: it has been reset, or has ended in order in both directions.
	gone() bool

	// settle delivers what is left and closes the leg. It returns how many bytes
	// that were written have not been delivered, as far as that can be known.
	settle(end legEnd) (cut int)
}

// connLeg is a leg over a connection of its own.
type connLeg struct {
	net.Conn
	setsDeadlines bool
	source        source // how receive waits; made when it first does
	pending       []byte // bytes that came right after the handshake
}

// source waits for bytes on a connection, at whatever cost in memory its kind of
// connection needs.
type source interface {
	receive() (*buffer, int, error)
}

// ConnLeg returns a leg over conn. pending holds bytes that were read from conn
// already and come before all others; it is not copied.
//
// setsDeadlines says that conn sets read deadlines of its own on each read. Such a leg
// keeps a buffer while it waits.
func ConnLeg(conn net.Conn, pending []byte, setsDeadlines bool) Leg {
	if tlsConn := tlsOf(conn); tlsConn != nil {
		releaseHandshake(tlsConn)
	}
	noticeVanished(conn)
	return &connLeg{Conn: conn, setsDeadlines: setsDeadlines, pending: pending}
}

// vanishTimeout is how long a peer may leave what it has been sent, or a probe of TCP
// keep-alive, without an acknowledgement, and for how long it may take nothing at all
// (RFC 5482). TCP alone would try for some 15 minutes (RFC 9293, section 3.8.3). Caddy has
// probes 30 s apart at most, so it is all over in 105 s.
const vanishTimeout = 75 * time.Second

// noticeVanished has the system end conn when its peer is gone without a word: a cable is
// pulled, a firewall has forgotten the connection. It works on Linux, for TCP.
func noticeVanished(conn net.Conn) { withSocket(innermost(conn), limitSilenceOf) }

func newSource(conn net.Conn, setsDeadlines bool) source {
	if tlsConn, ok := conn.(*tls.Conn); ok && !setsDeadlines {
		return &wakeTLSSource{conn: tlsConn}
	}
	return bufferedSource{conn}
}

func (l *connLeg) receive() (*buffer, int, error) {
	if len(l.pending) == 0 {
		if l.source == nil {
			l.source = newSource(l.Conn, l.setsDeadlines)
		}
		return l.source.receive()
	}
	buf := takeBuffer()
	n := copy(buf[:], l.pending)
	l.pending = l.pending[n:]
	if len(l.pending) == 0 {
		l.pending = nil
	}
	return buf, n, nil
}

func (l *connLeg) closeWrite() error {
	if tlsConn := tlsOf(l.Conn); tlsConn != nil {
		return tlsConn.CloseWrite()
	}
	if c, ok := innermost(l.Conn).(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (l *connLeg) stopReading() { l.SetReadDeadline(longAgo) }

func (l *connLeg) limitWriting(until time.Time) { l.SetWriteDeadline(until) }

func (l *connLeg) unsent() int { return max(wireOf(l.Conn).unsent(), 0) }

func (l *connLeg) gone() bool { return wireOf(l.Conn).gone() }

func (l *connLeg) settle(end legEnd) (cut int) {
	if end.how == endClean && !end.dead {
		l.sayGoodbye(end.until())
	}
	return newSettling(end, wireOf(l.Conn), tlsOf(l.Conn) != nil).settleNow()
}

// sayGoodbye sends TLS's close_notify, if it has not been sent. crypto/tls would
// try for 5 s.
func (l *connLeg) sayGoodbye(until time.Time) {
	for c := tlsOf(l.Conn); c != nil; c = tlsOf(c.NetConn()) {
		rest := time.Until(until)
		if rest <= 0 {
			return
		}
		limit := time.AfterFunc(rest, func() { c.SetWriteDeadline(longAgo) })
		c.CloseWrite()
		limit.Stop()
	}
}

// bufferedSource holds a buffer while it waits: the plain way, for connections
// of which nothing more is known.
type bufferedSource struct{ io.Reader }

func (s bufferedSource) receive() (*buffer, int, error) {
	buf := takeBuffer()
	n, err := s.Read(buf[:])
	if n == 0 {
		giveBuffer(buf)
		return nil, 0, err
	}
	return buf, n, err
}

// wakeSize fits the relay's acknowledgements, pings and Close frames, so that
// these need no second read.
const wakeSize = 64

// wakeTLSSource is for TLS connections whose readiness cannot be told. It waits in
// a read of a few bytes and takes a buffer when they have come. crypto/tls has
// decrypted a whole record by then, the rest of which it hands out without another
// system call.
type wakeTLSSource struct {
	conn *tls.Conn
	wake [wakeSize]byte
}

func (s *wakeTLSSource) receive() (*buffer, int, error) {
	n, err := s.conn.Read(s.wake[:])
	if n == 0 {
		return nil, 0, err
	}
	buf := takeBuffer()
	copy(buf[:], s.wake[:n])
	if n < wakeSize || err != nil {
		return buf, n, err
	}
	more, err := readReady(s.conn, s.conn, buf[n:])
	return buf, n + more, err
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// readReady fills p with the bytes that r holds already and does not wait for the
// network: a read deadline in the past fails each read that would reach conn.
// crypto/tls takes such a failure as temporary.
func readReady(r io.Reader, conn net.Conn, p []byte) (n int, err error) {
	if err := conn.SetReadDeadline(longAgo); err != nil {
		return 0, err
	}
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	if cerr := conn.SetReadDeadline(time.Time{}); err == nil {
		err = cerr // and io.EOF stays io.EOF
	}
	return n, err
}

// Pending returns the bytes that r, a reader around conn, has read from conn but
// not handed out yet. They are few: crypto/tls and a bufio.Reader hold no more than
// a record and a buffer between them.
func Pending(r io.Reader, conn net.Conn) []byte {
	buf := takeBuffer()
	defer giveBuffer(buf)
	var pending []byte
	for {
		n, _ := readReady(r, conn, buf[:]) // an error comes again at the next read
		if n == 0 {
			return pending
		}
		pending = append(pending, buf[:n]...)
	}
}
