package http1

import (
	"context"
	"crypto/tls"
	"io"
	"net"
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
	for _, size := range []int{64 << 10, 1} {
		for err := error(nil); err == nil; {
			conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = conn.Write(make([]byte, size))
		}
	}
	conn.SetWriteDeadline(time.Time{})
}
