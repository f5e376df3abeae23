package exchange

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sync"
	"time"
)

// conn is a connection to the server. One exchange owns it at a time.
type conn struct {
	net.Conn
	socket net.Conn      // below TLS, or Conn itself
	r      *bufio.Reader // of head, of Conn
	head   headReader
	quiet  quietness
	unused time.Time // since when it has been idle

	layered bool // socket is not Conn
}

// writeSize fits a request with one of the SDK's posts, so that it goes out in one
// TLS record and one system call.
const writeSize = 16 << 10

// writers are buffers of that size. An idle connection has none.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, writeSize) }}

func newConn(nc net.Conn) *conn {
	c := &conn{Conn: nc, socket: nc, head: headReader{conn: nc}}
	if layer, ok := nc.(interface{ NetConn() net.Conn }); ok {
		c.socket, c.layered = layer.NetConn(), true
	}
	c.quiet = newQuietness(c.socket)
	c.r = bufio.NewReader(&c.head)
	return c
}

// isQuiet reports whether an idle connection has received nothing: neither its end
// nor bytes that nobody asked for.
func (c *conn) isQuiet() bool { return c.quiet.check() }

// isDrained reports whether nothing has come behind an answer: it would be taken for
// the next one. crypto/tls may have read more than it has given out, which the
// socket does not show any more; a read that does not wait does.
func (c *conn) isDrained() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	if !c.layered {
		return true
	}
	c.SetReadDeadline(time.Unix(1, 0))
	_, err := c.r.Peek(1)
	c.SetReadDeadline(time.Time{})
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// interrupt fails what the exchange is waiting for.
func (c *conn) interrupt() { c.socket.Close() }

// abort closes c without TLS's farewell, for which crypto/tls would wait where the
// server does not read.
func (c *conn) abort() {
	c.socket.Close()
	c.Close()
}

// exchange writes req with body and reads the head of the answer.
func (c *conn) exchange(req *http.Request, body []byte, maxHeader int64) (*http.Response, error) {
	if err := c.write(req, body); err != nil {
		return nil, cause(req.Context(), err)
	}
	// One limit for all of them: there may be any number of 1xx answers.
	c.head.limit(maxHeader)
	for {
		answer, err := http.ReadResponse(c.r, req)
		if err != nil {
			if c.head.left <= 0 {
				err = errHeaderTooLarge // ReadResponse may call what is missing malformed
			}
			return nil, cause(req.Context(), err)
		}
		if answer.StatusCode >= 200 || answer.StatusCode == http.StatusSwitchingProtocols {
			c.head.unlimit()
			return answer, nil
		}
		trace := httptrace.ContextClientTrace(req.Context())
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(answer.StatusCode, textproto.MIMEHeader(answer.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// write lets net/http frame the request.
func (c *conn) write(req *http.Request, body []byte) error {
	framed := *req
	framed.Body, framed.ContentLength = nil, 0
	if len(body) > 0 {
		framed.Body, framed.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	w := writers.Get().(*bufio.Writer)
	defer writers.Put(w)
	w.Reset(c.Conn)
	defer w.Reset(nil)
	if err := framed.Write(w); err != nil {
		return err
	}
	return w.Flush()
}

// cause prefers the reason of an interruption to its effect.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// headReader reads from conn, bounded while the head of an answer is read.
type headReader struct {
	conn    io.Reader
	bounded bool
	left    int64
}

func (h *headReader) limit(n int64) { h.bounded, h.left = true, n }
func (h *headReader) unlimit()      { h.bounded = false }

func (h *headReader) Read(p []byte) (int, error) {
	if !h.bounded {
		return h.conn.Read(p)
	}
	if h.left <= 0 {
		return 0, errHeaderTooLarge
	}
	n, err := h.conn.Read(p[:min(int64(len(p)), h.left)])
	h.left -= int64(n)
	return n, err
}
