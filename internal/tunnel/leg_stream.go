package tunnel

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// streamLeg is a leg over an HTTP/2 or HTTP/3 stream that an extended CONNECT
// opened (RFC 8441, RFC 9220). The stream lives as long as its handler, which
// ends it by returning.
type streamLeg struct {
	bufferedSource
	outer *http.ResponseController // wrappers may watch over the body's deadline
	inner *http.ResponseController
	w     io.Writer
	conn  net.Conn // that the stream is on; nil if there is none
}

// StreamLeg returns a leg that reads from body, the request's, and writes to the
// innermost of w, flushing each write. Both are in use until the tunnel's Wait
// has returned. conn is the connection that the stream shares with others, nil for
// HTTP/3, which has none.
func StreamLeg(conn net.Conn, w http.ResponseWriter, body io.Reader) Leg {
	if conn != nil {
		noticeVanished(conn)
	}
	inner := Innermost(w)
	return &streamLeg{
		bufferedSource: bufferedSource{body},
		outer:          http.NewResponseController(w),
		inner:          http.NewResponseController(inner),
		w:              inner,
		conn:           conn,
	}
}

// Innermost returns the writer that net/http or its like made. What wraps it
// would keep the whole request in memory, to count bytes that are logged already,
// and is not made for deadlines set while another goroutine writes.
func Innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

func (l *streamLeg) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, l.inner.Flush()
}

// closeWrite cannot say that nothing more will come: END_STREAM goes out when the
// handler returns, which ends the other direction too.
func (l *streamLeg) closeWrite() error { return errors.ErrUnsupported }

func (l *streamLeg) stopReading() { l.outer.SetReadDeadline(longAgo) }

// limitWriting also keeps a client that takes nothing from holding up its handler.
func (l *streamLeg) limitWriting(until time.Time) { l.inner.SetWriteDeadline(until) }

// unsent counts what is there for other streams of the connection, too. QUIC does not
// tell.
func (l *streamLeg) unsent() int {
	if l.conn == nil {
		return 0
	}
	return max(unsentOf(innermost(l.conn)), 0)
}

// settle has nothing to do: Write returns when what it was given is on the
// connection, and the stream ends with its handler.
func (l *streamLeg) settle(legEnd) (cut int) { return 0 }
