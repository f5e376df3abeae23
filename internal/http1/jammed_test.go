package http1

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// TestJammed has a server that takes nothing more, and sends what crypto/tls answers right
// behind its response: a record that it cannot read, for which it has an alert. Looking for
// what comes after the response does not wait until the server takes that.
func TestJammed(t *testing.T) {
	jammed := make(chan bool)
	s := newServer(t, true, func(p *peer) {
		p.request()
		p.send(ok + "Content-Length: 2\r\n\r\nx")
		<-jammed
		p.cork.hold()
		p.send("y")
		io.WriteString(p.cork, "\x17\x03\x03\x00\x20not what any key has encrypted..")
		p.cork.release()
		<-t.Context().Done()
	})
	var conn net.Conn
	p := s.pool()
	p.Dial = func(ctx context.Context) (_ net.Conn, err error) {
		conn, err = s.dial(ctx)
		return conn, err
	}
	response, err := p.RoundTrip(newRequest(t.Context(), "POST", "x"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Read(make([]byte, 1))
	fill(conn.(*tls.Conn).NetConn())
	close(jammed)
	read := make(chan string, 1)
	go func() { read <- readAll(t, response) }()
	if got := receive(t, read); got != "y" {
		t.Errorf("got %q", got)
	}
	if kept(p) > 0 {
		t.Error("the connection is kept")
	}
}

// fill writes to conn until not even a byte fits.
func fill(conn net.Conn) {
	for _, size := range []int{64 << 10, 256, 1} {
		for err := error(nil); err == nil; {
			conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = conn.Write(make([]byte, size))
		}
	}
	conn.SetWriteDeadline(time.Time{})
}

// TestJammedIdle has a server that takes nothing more from connections that are idle.
// Neither who closes them waits until it takes TLS's farewell, nor a request that finds
// that they cannot be used any more.
func TestJammedIdle(t *testing.T) {
	for name, test := range map[string]struct {
		comes string // on each idle connection
		end   func(*Pool)
	}{
		"closed": {"", (*Pool).Close},
		"used": {"unasked", func(p *Pool) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // it needs no new connection
			p.RoundTrip(newRequest(ctx, "POST", "x"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := jammedPool(t, test.comes)
			ended := make(chan bool, 1)
			go func() { test.end(p); ended <- true }()
			receive(t, ended)
			if kept(p) > 0 {
				t.Error("connections are kept")
			}
		})
	}
}

// jammedPool returns a pool with idle connections that take nothing more. So many that
// for crypto/tls to wait for each would take longer than receive does.
func jammedPool(t *testing.T, comes string) *Pool {
	const n = 5
	jammed, said := make(chan bool), make(chan bool, n)
	s := newServer(t, true, func(p *peer) {
		p.request()
		p.response("x")
		<-jammed
		io.WriteString(p, comes)
		said <- true
		<-t.Context().Done()
	})
	var conns []net.Conn
	p := s.pool()
	p.Dial = func(ctx context.Context) (net.Conn, error) {
		conn, err := s.dial(ctx)
		if err == nil {
			conns = append(conns, conn)
		}
		return conn, err
	}
	for _, response := range open(t, p, n) {
		readAll(t, response)
	}
	var filling sync.WaitGroup
	for _, conn := range conns {
		filling.Go(func() { fill(conn.(*tls.Conn).NetConn()) })
	}
	filling.Wait()
	close(jammed)
	for range n {
		receive(t, said)
	}
	return p
}
