package tunnel

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// streamLeg is a leg over an HTTP/2 or HTTP/3 stream that an extended CONNECT
// opened (RFC 8441, RFC 9220). The stream lives as long as its handler, which
// ends it by returning.
//
// The handler's goroutine does the writing, in Wait. A write to an HTTP/2 stream can
// outlast its deadline: net/http resets the stream then, but the reset has to wait for
// the frame that the connection is writing, as long as the client takes nothing. So the
// tunnel gives the write up, and is over, while the handler stays in it, as any handler
// would. Closing the connection instead would release that too, but would end streams
// that are nothing of the tunnel's: a download over a slow line, behind MBs that the
// system holds for it, looks the same. What a client can keep that way is bounded: as
// many handlers as a connection has streams (250), with a buffer each, until it takes
// one frame more, or its connection ends (see vanishTimeout, and what a stop closes).
type streamLeg struct {
	bufferedSource
	outer *http.ResponseController // wrappers may watch over the body's deadline
	inner *http.ResponseController
	w     io.Writer
	conn  net.Conn // that the stream is on; nil if there is none

	pieces  chan piece    // for the handler to write; one at a time
	written chan written  // what has become of the last; of capacity 1, for nobody may wait for it
	late    chan struct{} // closed when it is too late to write
	cut     atomic.Bool   // a piece has been given up

	mu       sync.Mutex  // protects what follows
	deadline time.Time   // of writing; zero for none
	timer    *time.Timer // closes late at deadline
}

// piece is a copy of what is to be written: whoever had it written does not wait for
// longer than its deadline.
type piece struct {
	buf *buffer
	n   int
}

// written is what a write has returned.
type written struct {
	n   int
	err error
}

// StreamLeg returns a leg that reads from body, the request's, and writes to the
// innermost of w, flushing each write. The stream's handler has to call the tunnel's
// Wait, which does the writing; w and body are in use until it has returned. conn is the
// connection that the stream shares with others, nil for HTTP/3, which has none.
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
		pieces:         make(chan piece, 1),
		written:        make(chan written, 1),
		late:           make(chan struct{}),
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

// Write has p, which fits a buffer, written by the handler.
func (l *streamLeg) Write(p []byte) (int, error) {
	select {
	case <-l.late: // the handler may still be writing an earlier piece
		return l.giveUp()
	default:
	}
	buf := takeBuffer()
	l.pieces <- piece{buf, copy(buf[:], p)}
	select {
	case w := <-l.written:
		return w.n, w.err
	case <-l.late:
		return l.giveUp()
	}
}

func (l *streamLeg) giveUp() (int, error) {
	l.cut.Store(true)
	return 0, os.ErrDeadlineExceeded
}

// serve writes until the leg has settled. It runs in the handler's goroutine.
func (l *streamLeg) serve() {
	for p := range l.pieces {
		n, err := l.w.Write(p.buf[:p.n])
		giveBuffer(p.buf)
		if err == nil {
			if err = l.inner.Flush(); err != nil {
				n = 0 // it was buffered, and nobody tells how much of it has gone out
			}
		}
		l.written <- written{n, err}
	}
}

// closeWrite cannot say that nothing more will come: END_STREAM goes out when the
// handler returns, which ends the other direction too.
func (l *streamLeg) closeWrite() error { return errors.ErrUnsupported }

func (l *streamLeg) stopReading() { l.outer.SetReadDeadline(longAgo) }

// limitWriting also has a stream reset that its client takes nothing of, so that its
// handler is held up no longer than its connection is.
func (l *streamLeg) limitWriting(until time.Time) {
	l.inner.SetWriteDeadline(until)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.timer == nil:
		l.timer = time.AfterFunc(time.Until(until), func() { close(l.late) })
	case until.Before(l.deadline) && l.timer.Stop():
		l.timer.Reset(time.Until(until))
	default:
		return
	}
	l.deadline = until
}

// unsent counts what is there for other streams of the connection, too. QUIC does not
// tell.
func (l *streamLeg) unsent() int {
	if l.conn == nil {
		return 0
	}
	return max(unsentOf(innermost(l.conn)), 0)
}

// gone: of a stream, reading tells how it has ended.
func (l *streamLeg) gone() bool { return false }

// settle has nothing to deliver: Write returns when what it was given is on the
// connection, and the stream ends with its handler. Nothing is written any more.
func (l *streamLeg) settle(legEnd) (cut int) {
	close(l.pieces)
	return 0
}
