package http1

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	authority = wstest.NewAuthority("http1 test")
	leaf      = authority.Issue("127.0.0.1")
)

// server speaks HTTP by hand.
type server struct {
	t      testing.TB
	ln     net.Listener
	secure bool
	serve  func(*peer)

	requests atomic.Int64 // whose heads were read
	accepted atomic.Int64
	all      sync.WaitGroup
	mu       sync.Mutex // protects peers
	peers    []*peer
}

// peer is the server's side of a connection.
type peer struct {
	net.Conn
	s    *server
	n    int64 // of its connection, from 1
	r    *bufio.Reader
	cork *corked
}

// both runs a test without TLS and with it.
func both(t *testing.T, test func(*testing.T, bool)) {
	t.Run("tcp", func(t *testing.T) { test(t, false) })
	t.Run("tls", func(t *testing.T) { test(t, true) })
}

func newServer(t testing.TB, secure bool, serve func(*peer)) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, ln: ln, secure: secure, serve: serve}
	s.all.Go(s.accept)
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for _, p := range s.peers {
			p.cork.Close()
		}
		s.mu.Unlock()
		s.all.Wait()
	})
	return s
}

func (s *server) accept() {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		cork := &corked{Conn: nc}
		p := &peer{Conn: cork, s: s, n: s.accepted.Add(1), cork: cork}
		if s.secure {
			p.Conn = tls.Server(cork, leaf.ServerConfig())
		}
		p.r = bufio.NewReader(p.Conn)
		s.mu.Lock()
		s.peers = append(s.peers, p)
		s.mu.Unlock()
		s.all.Go(func() {
			defer p.cork.Close()
			s.serve(p)
		})
	}
}

// dial is a Pool's Dial.
func (s *server) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, "tcp", s.ln.Addr().String())
	if err != nil || !s.secure {
		return nc, err
	}
	tc := tls.Client(nc, authority.ClientConfig("127.0.0.1"))
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return tc, nil
}

func (s *server) pool() *Pool {
	p := &Pool{Dial: s.dial, MaxIdle: 8, IdleTimeout: time.Hour, MaxHeader: 64 << 10}
	s.t.Cleanup(p.Close)
	return p
}

// want checks how much the server has been asked.
func (s *server) want(connections, requests int64) {
	s.t.Helper()
	if got := s.accepted.Load(); got != connections {
		s.t.Errorf("%d connections, want %d", got, connections)
	}
	if got := s.requests.Load(); got != requests {
		s.t.Errorf("%d requests, want %d", got, requests)
	}
}

// request reads one, or returns nil at the connection's end.
func (p *peer) request() (*http.Request, string) {
	req, err := http.ReadRequest(p.r)
	if err != nil {
		return nil, ""
	}
	p.s.requests.Add(1)
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, ""
	}
	return req, string(body)
}

func (p *peer) send(text string) { io.WriteString(p, text) }

// sent waits until the client's kernel has acknowledged all: closing may discard
// what has not left yet.
func (p *peer) sent() {
	if err := wstest.AwaitSent(p.cork.Conn); err != nil {
		p.s.t.Error(err)
	}
}

// response echoes body and says which connection it is.
func (p *peer) response(body string) {
	p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nConn: %d\r\nContent-Length: %d\r\n\r\n%s", p.n, len(body), body))
}

// end waits until the client has closed the connection.
func (p *peer) end() { io.Copy(io.Discard, p.r) }

func echo(p *peer) {
	for {
		req, body := p.request()
		if req == nil {
			return
		}
		p.response(body)
	}
}

// corked can hold back what is written, so that it arrives in one piece.
type corked struct {
	net.Conn
	closed bool // so that the pieces pile up
	pieces bytes.Buffer
}

func (c *corked) Write(b []byte) (int, error) {
	if c.closed {
		return c.pieces.Write(b)
	}
	return c.Conn.Write(b)
}

func (c *corked) hold() { c.closed = true }

func (c *corked) release() {
	c.closed = false
	c.SetWriteDeadline(time.Time{}) // crypto/tls leaves one after its close_notify
	c.Conn.Write(c.pieces.Bytes())
	c.pieces.Reset()
}

func newRequest(ctx context.Context, method, body string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, method, "http://relay.example/path?query", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.GetBody = nil
	return req
}

// post sends body and returns what comes back, and over which connection it came.
func post(t testing.TB, p *Pool, body string) (got, conn string) {
	t.Helper()
	response, err := p.RoundTrip(newRequest(t.Context(), "POST", body))
	if err != nil {
		t.Fatal(err)
	}
	return readAll(t, response), response.Header.Get("Conn")
}

func readAll(t testing.TB, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}

// kept is how many unused connections the pool has. Its timer may be running.
func kept(p *Pool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func expiring(p *Pool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.expiry != nil
}
