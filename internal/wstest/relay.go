package wstest

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"
)

// Relay listens on loopback and gives each connection to a test.
type Relay struct {
	Addr  string // host:port
	Conns chan *Conn

	tb       testing.TB
	listener net.Listener
	config   *tls.Config
	serving  sync.WaitGroup

	mu       sync.Mutex // protects what follows
	conns    []*Conn
	closed   bool
	accepted int
}

// NewRelay listens until the test ends, with TLS unless config is nil. Each connection
// is given to handle, in a goroutine of its own, and closed when handle returns. If
// handle is nil, connections wait in Conns, and are closed when the test ends.
func NewRelay(tb testing.TB, config *tls.Config, handle func(*Conn)) *Relay {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &Relay{
		Addr: listener.Addr().String(), Conns: make(chan *Conn, 1024),
		tb: tb, listener: listener, config: config,
	}
	r.serving.Go(func() { r.accept(handle) })
	tb.Cleanup(r.Close)
	return r
}

func (r *Relay) accept(handle func(*Conn)) {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		c, ok := r.take(conn)
		switch {
		case !ok:
			conn.Close()
		case handle == nil:
			select {
			case r.Conns <- c:
			default: // more than any test leaves waiting
				c.Drop()
			}
		default:
			r.serving.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	}
}

func (r *Relay) take(conn net.Conn) (*Conn, bool) {
	conn.SetDeadline(time.Now().Add(Patience))
	if r.config != nil {
		conn = tls.Server(conn, r.config)
	}
	c := NewConn(conn, false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
	r.accepted++
	return c, !r.closed
}

// Accepted returns how many connections there have been.
func (r *Relay) Accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// Next returns the next connection. It fails the test if there is none in time.
func (r *Relay) Next() *Conn {
	r.tb.Helper()
	select {
	case c := <-r.Conns:
		return c
	case <-time.After(Patience):
		r.tb.Fatal("the relay was not connected to")
		return nil
	}
}

// Wait stops listening and waits until each handler has returned by itself.
func (r *Relay) Wait() {
	r.listener.Close()
	r.serving.Wait()
}

// Close stops listening, closes all connections and waits for their handlers. A test
// that has the relay go away calls it early; calling it again does no harm.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	conns := r.conns
	r.mu.Unlock()
	r.listener.Close()
	for _, c := range conns {
		c.Drop()
	}
	r.serving.Wait()
}
