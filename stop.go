package watchrtcproxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go/http3"
)

// ending is the end of the process, which may not wait for ever: Caddy, unless it
// has a grace_period, waits until each HTTP/2 and HTTP/3 client has closed its
// connection, and a client that is gone, or has stopped reading, never does.
var ending = newStopLimit()

func init() {
	// By then every configuration has given up its leases: wait for the drains
	// that this began.
	caddy.OnExit(func(context.Context) {
		drained := make(chan struct{})
		go func() { tunnels.Wait(); close(drained) }()
		select {
		case <-drained:
		case <-ending.over.Done():
		}
	})
}

// stopMargin is what Caddy needs to end when nothing holds it up any more: its
// servers look every half second.
const stopMargin = 700 * time.Millisecond

// stopLimit bounds the time that the process takes to stop.
type stopLimit struct {
	over   context.Context // done when the time is up
	cancel context.CancelCauseFunc

	mu       sync.Mutex // protects what follows
	deadline time.Time
	timer    *time.Timer
	carriers map[io.Closer]int // what carries streams, and how many
}

func newStopLimit() *stopLimit {
	s := &stopLimit{carriers: make(map[io.Closer]int)}
	s.over, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// within leaves the process that much time, or what it was given before if that
// is more.
func (s *stopLimit) within(limit time.Duration) {
	limit -= stopMargin
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := time.Now().Add(limit)
	if deadline.Before(s.deadline) {
		return
	}
	s.deadline = deadline
	if s.timer == nil {
		s.timer = time.AfterFunc(limit, s.closeAll)
	} else {
		s.timer.Reset(limit)
	}
}

// carry has c, which carries a stream, closed when the time is up. done says that
// the stream is over; when the process stops that is too early to forget c.
func (s *stopLimit) carry(c io.Closer) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.carriers[c]++
	return func() {
		if caddy.Exiting() {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.carriers[c]--; s.carriers[c] == 0 {
			delete(s.carriers, c)
		}
	}
}

func (s *stopLimit) closeAll() {
	s.cancel(errDraining)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.carriers {
		// Closing may wait, and crypto/tls does if the client does not read.
		go c.Close()
	}
}

// connKey is the key of a connection in the context of its requests.
type connKey struct{}

func rememberConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// carrierOf returns what to close if the client of the stream that r opened does
// not: its connection over HTTP/2. Over HTTP/3 there is no such way, so there it is
// all of the server.
func carrierOf(r *http.Request) io.Closer {
	if server, ok := r.Context().Value(http3.ServerContextKey).(*http3.Server); ok {
		return server
	}
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		return innermostConn{conn}
	}
	return nil
}

// innermostConn closes a connection without a word to a peer that does not listen.
type innermostConn struct{ net.Conn }

func (c innermostConn) Close() error {
	if inner, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
		return innermostConn{inner.NetConn()}.Close()
	}
	return c.Conn.Close()
}
