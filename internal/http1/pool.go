// Package http1 sends small HTTP/1.1 requests over kept-alive connections, each in
// the goroutine that asks for it. http.Transport passes a request and its response
// between three goroutines; for the SDK's posts that is most of what forwarding
// costs (docs/engine.md).
//
// It knows nothing of Caddy.
package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// MaxBody is the largest request body in bytes that a Pool sends. It has to fit
// into the buffers between the two ends: nobody reads the server's response while
// the request is being written.
const MaxBody = 64 << 10

// Pool is an http.RoundTripper for one server. It repeats no request: a request
// that fails may have reached the server.
type Pool struct {
	// Dial opens a connection, TLS included.
	Dial func(context.Context) (net.Conn, error)
	// MaxIdle is how many unused connections are kept.
	MaxIdle int
	// IdleTimeout is how long an unused connection is kept; unless it is positive,
	// for as long as the server keeps it.
	IdleTimeout time.Duration
	// MaxHeader bounds the head of a response, in bytes.
	MaxHeader int64

	mu     sync.Mutex // protects what follows
	idle   []*conn    // the least recently used first
	expiry *time.Timer
	closed bool
}

// Takes reports whether req is one for a Pool: small, with a body that is here already,
// and without the parts of HTTP that need both directions at once.
func Takes(req *http.Request) bool {
	_, here := req.Body.(*Body)
	return (here || req.Body == nil || req.Body == http.NoBody) &&
		req.ContentLength >= 0 && req.ContentLength <= MaxBody &&
		len(req.Trailer) == 0 && len(req.Header["Expect"]) == 0
}

// RoundTrip sends req and returns the head of its response. The connection is kept
// when the response's body has been read to its end. The context ends the round
// trip at any time.
//
// A server may respond and close without reading the request. Its response is
// returned also where writing the request has failed.
//
// Of the context's httptrace hooks it calls GetConn, once the request's body has
// been read, those of http.Request.Write, and Got1xxResponse.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != "" && !httpguts.ValidHeaderFieldName(req.Method) {
		// HTTP/2 lets methods with spaces in them through.
		closeBody(req)
		return nil, fmt.Errorf("invalid method %q", req.Method)
	}
	body, owned, err := bodyOf(req)
	if err != nil {
		return nil, err
	}
	if owned {
		defer body.Release()
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GetConn != nil {
		trace.GetConn(req.URL.Host)
	}
	c, err := p.take(req.Context())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(req.Context(), c.interrupt)
	response, err := c.roundTrip(req, body, p.MaxHeader)
	if err != nil {
		stop()
		c.abort()
		return nil, err
	}
	held := &responseBody{
		ReadCloser: response.Body, ctx: req.Context(), pool: p, conn: c, stop: stop,
		keep: reusable(response),
	}
	if response.Body == http.NoBody {
		held.done(true)
		return response, nil
	}
	response.Body = held
	return response, nil
}

// reusable reports whether the connection may carry another request. A server that
// refuses a request may close the connection without reading it, and its reset may
// still be on the way.
func reusable(response *http.Response) bool {
	return !response.Close && response.StatusCode >= 200 && response.StatusCode < 400
}

// take returns an idle connection that is still good, or a new one.
func (p *Pool) take(ctx context.Context) (*conn, error) {
	for {
		c := p.pop()
		if c == nil {
			break
		}
		if c.isQuiet() {
			return c, nil
		}
		c.close()
	}
	nc, err := p.Dial(ctx)
	if err != nil {
		return nil, cause(ctx, err)
	}
	return newConn(nc), nil
}

// pop returns the most recently used idle connection, or nil.
func (p *Pool) pop() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.idle) - 1
	if last < 0 {
		return nil
	}
	c := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return c
}

// put keeps c for the next request, or closes it if there are enough.
func (p *Pool) put(c *conn) {
	p.mu.Lock()
	keep := !p.closed && len(p.idle) < p.MaxIdle
	if keep {
		c.unused = time.Now()
		p.idle = append(p.idle, c)
		if p.expiry == nil && p.IdleTimeout > 0 {
			p.expiry = time.AfterFunc(p.IdleTimeout, p.expire)
		}
	}
	p.mu.Unlock()
	if !keep {
		c.close()
	}
}

// expire closes what has been idle for too long, and comes again while there is
// anything idle.
func (p *Pool) expire() {
	p.mu.Lock()
	n := 0
	for n < len(p.idle) && time.Since(p.idle[n].unused) >= p.IdleTimeout {
		n++
	}
	expired := p.idle[:n]
	p.idle = append([]*conn(nil), p.idle[n:]...)
	p.expiry = nil
	if len(p.idle) > 0 {
		p.expiry = time.AfterFunc(p.IdleTimeout-time.Since(p.idle[0].unused), p.expire)
	}
	p.mu.Unlock()
	closeAll(expired)
}

// Close closes the idle connections and keeps none from now on. Requests under way
// go on.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	if p.expiry != nil {
		p.expiry.Stop()
	}
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	closeAll(idle)
}

// closeAll is not for while the lock is held.
func closeAll(conns []*conn) {
	for _, c := range conns {
		c.close()
	}
}

// responseBody gives the connection back when it has been read to its end.
type responseBody struct {
	io.ReadCloser
	ctx  context.Context // of the request
	pool *Pool
	conn *conn // nil once given back or closed
	stop func() bool
	keep bool
}

// Buffered returns how many bytes of the connection are here already: at least as
// many can be read without waiting, as far as they belong to the body.
func (b *responseBody) Buffered() int {
	if b.conn == nil {
		return 0
	}
	return b.conn.r.Buffered()
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done(err == io.EOF)
	}
	if err != nil && err != io.EOF {
		err = cause(b.ctx, err)
	}
	return n, err
}

// Close reads nothing: a response that is not wanted is not worth waiting for.
func (b *responseBody) Close() error {
	b.done(false)
	return nil
}

func (b *responseBody) done(complete bool) {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	uninterrupted := b.stop()
	switch {
	case !complete || !uninterrupted:
		c.abort()
	case !b.keep:
		c.close()
	case c.isDrained():
		b.pool.put(c)
	default:
		c.abort()
	}
}

var (
	errHeaderTooLarge = errors.New("the head of the response is too large")
	errBadStatus      = errors.New("the status of the response is below 100")
)
