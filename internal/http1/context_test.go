package http1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"sync"
	"testing"
)

var errEnough = errors.New("enough")

func TestCancelledWhileDialling(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	p := &Pool{Dial: func(ctx context.Context) (net.Conn, error) {
		cancel(errEnough)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	if _, err := p.RoundTrip(newRequest(ctx, "POST", "x")); !errors.Is(err, errEnough) {
		t.Errorf("error %v", err)
	}
}

func TestCancelledInTheHandshake(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newServer(t, true, func(p *peer) {
		p.cork.Read(make([]byte, 1))
		cancel(errEnough)
		io.Copy(io.Discard, p.cork)
	})
	if _, err := s.pool().RoundTrip(newRequest(ctx, "POST", "x")); !errors.Is(err, errEnough) {
		t.Errorf("error %v", err)
	}
}

func TestCancelledBeforeTheHead(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for _, part := range []string{"", ok + "Content-", "HTTP/1.1 103 Early Hints\r\n\r\n"} {
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan bool, 1)
			s := newServer(t, secure, func(p *peer) {
				p.request()
				p.send(part)
				cancel(errEnough)
				p.end()
				ended <- true
			})
			if _, err := s.pool().RoundTrip(newRequest(ctx, "POST", "x")); !errors.Is(err, errEnough) {
				t.Errorf("%q: error %v", part, err)
			}
			receive(t, ended)
		}
	})
}

func TestCancelledInTheBody(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for name, raw := range map[string]string{
			"length":      ok + "Content-Length: 5\r\n\r\nbody",
			"chunked":     ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
			"in a chunk":  ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nbody",
			"until close": ok + "\r\nbody",
		} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				ended := make(chan bool, 1)
				s := newServer(t, secure, func(p *peer) { p.request(); p.send(raw); p.end(); ended <- true })
				p := s.pool()
				response, err := p.RoundTrip(newRequest(ctx, "POST", "x"))
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				if _, err := io.ReadFull(response.Body, make([]byte, 4)); err != nil {
					t.Fatal(err)
				}
				cancel(errEnough)
				if _, err := response.Body.Read(make([]byte, 1)); !errors.Is(err, errEnough) {
					t.Errorf("error %v", err)
				}
				receive(t, ended)
				if kept(p) != 0 {
					t.Error("kept")
				}
			})
		}
	})
}

// TestCancelledBetweenHeadAndClose: that ends the connection, whoever still holds
// the response.
func TestCancelledBetweenHeadAndClose(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan bool, 1)
		s := newServer(t, secure, func(p *peer) { p.request(); p.response("body"); p.end(); ended <- true })
		p := s.pool()
		response, err := p.RoundTrip(newRequest(ctx, "POST", "x"))
		if err != nil {
			t.Fatal(err)
		}
		cancel(errEnough)
		receive(t, ended)
		// The body has come, or not, but its connection is gone.
		if _, err := io.ReadAll(response.Body); err != nil && !errors.Is(err, errEnough) {
			t.Errorf("error %v", err)
		}
		response.Body.Close()
		if kept(p) != 0 {
			t.Error("kept")
		}
	})
}

// TestCancelledAfterwards: what ends after a request does not touch the next one
// on the same connection.
func TestCancelledAfterwards(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, echo)
		p := s.pool()
		for _, body := range []string{"x", "", "x"} {
			ctx, cancel := context.WithCancel(t.Context())
			response, err := p.RoundTrip(newRequest(ctx, "POST", body))
			if err != nil {
				t.Fatal(err)
			}
			if body != "" {
				readAll(t, response)
			}
			cancel()
		}
		s.want(1, 3)
	})
}

// TestCancelledWhileWriting has a server that stops reading.
func TestCancelledWhileWriting(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := newServer(t, secure, (*peer).end)
		stuck := &stuckConn{blocked: func() { cancel(errEnough) }, closed: make(chan bool)}
		p := s.pool()
		p.Dial = func(ctx context.Context) (net.Conn, error) {
			var err error
			stuck.Conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", s.ln.Addr().String())
			if err != nil || !secure {
				return stuck, err
			}
			tc := tls.Client(stuck, authority.ClientConfig("127.0.0.1"))
			return tc, tc.HandshakeContext(ctx)
		}
		if _, err := p.RoundTrip(newRequest(ctx, "POST", string(make([]byte, MaxBody)))); !errors.Is(err, errEnough) {
			t.Errorf("error %v", err)
		}
		if stuck.late {
			t.Error("would wait for the server to read a farewell")
		}
	})
}

// stuckConn takes half of a large request, and nothing more until it is closed.
type stuckConn struct {
	net.Conn
	written int
	blocked func()
	closed  chan bool
	once    sync.Once
	late    bool // something was written although there is no room
}

func (c *stuckConn) Write(b []byte) (int, error) {
	if c.written += len(b); c.written < MaxBody/2 {
		return c.Conn.Write(b)
	}
	select {
	case <-c.closed:
	default:
		c.late = c.blocked == nil
		if !c.late {
			c.blocked()
			c.blocked = nil
		}
	}
	<-c.closed
	return 0, net.ErrClosed
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// TestSlowRequestBody: no connection waits for a client.
func TestSlowRequestBody(t *testing.T) {
	s := newServer(t, false, echo)
	p := s.pool()
	post(t, p, "x")
	body, client := io.Pipe()
	connected := make(chan bool, 1)
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GetConn: func(string) { connected <- true }})
	req := newRequest(ctx, "POST", "")
	req.Body, req.ContentLength = body, 8
	result := make(chan string)
	go func() {
		defer close(result)
		response, err := p.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		result <- readAll(t, response)
	}()
	client.Write([]byte("slow"))
	select {
	case <-connected:
		t.Error("a connection is sought before the body is there")
	default:
	}
	post(t, p, "meanwhile") // over the only one
	client.Write([]byte("body"))
	if got := receive(t, result); got != "slowbody" {
		t.Errorf("got %q", got)
	}
	receive(t, connected)
	s.want(1, 3)
}

// reader is a request's body that says whether it was closed.
type reader struct {
	io.Reader
	closed bool
}

func (r *reader) Close() error {
	r.closed = true
	return nil
}

func TestBadRequestBody(t *testing.T) {
	broken := errors.New("the client is gone")
	for name, test := range map[string]struct {
		body io.Reader
		want error
	}{
		"short":  {bytes.NewReader([]byte("shor")), io.ErrUnexpectedEOF},
		"empty":  {bytes.NewReader(nil), io.ErrUnexpectedEOF},
		"broken": {io.MultiReader(bytes.NewReader([]byte("x")), failing{broken}), broken},
	} {
		s := newServer(t, false, echo)
		body := &reader{Reader: test.body}
		req := newRequest(t.Context(), "POST", "")
		req.Body, req.ContentLength = body, 5
		if _, err := s.pool().RoundTrip(req); err != test.want {
			t.Errorf("%s: error %v, want %v", name, err, test.want)
		}
		if !body.closed {
			t.Errorf("%s: not closed", name)
		}
		s.want(0, 0)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
