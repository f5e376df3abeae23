package http1

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
	"syscall"
	"time"
)

// conn is a connection to the server. One request owns it at a time.
type conn struct {
	net.Conn
	socket net.Conn      // below TLS, or Conn itself
	r      *bufio.Reader // of head, of Conn
	head   headReader
	quiet  quietness
	unused time.Time // since when it has been idle

	layered  bool  // socket is not Conn
	writeErr error // of the request; the connection is not used again
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

// isDrained reports whether nothing has come after a response: it would be taken for
// the next one. crypto/tls may have read more than it has given out, which the
// socket does not show any more; a read that does not wait does. Nor may crypto/tls wait
// to write what it says to that: a server that does not read would hold that up for ever.
// If there was such a thing, the connection cannot be written to any more.
func (c *conn) isDrained() bool {
	if c.r.Buffered() > 0 {
		return false
	}
	if !c.layered {
		return true
	}
	c.SetDeadline(time.Unix(1, 0))
	_, err := c.r.Peek(1)
	c.SetDeadline(time.Time{})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	_, err = c.Conn.Write(nil)
	return err == nil
}

// interrupt fails what the request is waiting for.
func (c *conn) interrupt() { c.socket.Close() }

// close closes c with TLS's farewell, unless crypto/tls would wait for a server that does
// not read.
func (c *conn) close() {
	if !c.quiet.takes() {
		c.socket.Close()
	}
	c.Conn.Close()
}

// abort closes c without TLS's farewell, for which crypto/tls would wait where the
// server does not read.
func (c *conn) abort() {
	c.socket.Close()
	c.Close()
}

// roundTrip writes req with body and reads the head of the response.
func (c *conn) roundTrip(req *http.Request, body *Body, maxHeader int64) (*http.Response, error) {
	writeErr := c.write(req, body)
	if writeErr != nil && !closedByPeer(writeErr) {
		return nil, cause(req.Context(), writeErr)
	}
	response, err := c.readResponse(req, maxHeader)
	if err != nil {
		if writeErr != nil {
			err = writeErr
		}
		return nil, cause(req.Context(), err)
	}
	if writeErr != nil {
		response.Close = true
	}
	return response, nil
}

// closedByPeer reports whether a write failed because the peer has closed the
// connection. What it sent before that can still be read.
func closedByPeer(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// readResponse reads the head of the final response, and hands 1xx responses to the
// request's trace.
func (c *conn) readResponse(req *http.Request, maxHeader int64) (*http.Response, error) {
	// One limit for all of them: there may be any number of 1xx responses.
	c.head.limit(maxHeader)
	for {
		response, err := http.ReadResponse(c.r, req)
		switch {
		case err != nil && c.head.left <= 0:
			return nil, errHeaderTooLarge // ReadResponse may call what is missing malformed
		case err != nil:
			return nil, err
		case response.StatusCode < 100:
			return nil, errBadStatus // ReadResponse takes 000 to 099
		case response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols:
			c.head.unlimit()
			return response, nil
		}
		trace := httptrace.ContextClientTrace(req.Context())
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(response.StatusCode, textproto.MIMEHeader(response.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// write lets net/http frame the request.
func (c *conn) write(req *http.Request, body *Body) error {
	framed := *req
	framed.Body, framed.ContentLength = nil, 0
	if body != nil && body.size > 0 {
		// A type that net/http knows to be in memory goes out together with the head.
		framed.Body, framed.ContentLength = io.NopCloser(bytes.NewReader(body.bytes())), int64(body.size)
	}
	w := writers.Get().(*bufio.Writer)
	defer writers.Put(w)
	w.Reset(c)
	defer w.Reset(nil)
	err := framed.Write(w)
	if err == nil {
		err = w.Flush()
	}
	if c.writeErr != nil {
		return c.writeErr
	}
	return err
}

// Write remembers its error: net/http may take it for one of the body and hide it.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.writeErr = err
	}
	return n, err
}

// cause prefers the reason of an interruption to its effect.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// headReader reads from conn, bounded while the head of a response is read.
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
