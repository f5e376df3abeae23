package http1

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// TestMethodIsOneWord: the rest would be another path.
func TestMethodIsOneWord(t *testing.T) {
	for _, method := range []string{"GET /other", "GET /other HTTP/1.1\r\nHost: x\r\n\r\nGET", "G\tT", "a\x00b", "ü"} {
		s := newServer(t, false, echo)
		body := &reader{Reader: strings.NewReader("x")}
		req := newRequest(t.Context(), "POST", "")
		req.Method, req.Body, req.ContentLength = method, body, 1
		if _, err := s.pool().RoundTrip(req); err == nil || !strings.Contains(err.Error(), "method") {
			t.Errorf("%q: error %v", method, err)
		}
		if !body.closed {
			t.Errorf("%q: the body is not closed", method)
		}
		s.want(0, 0)
	}
}

func TestTakes(t *testing.T) {
	for name, test := range map[string]struct {
		req  http.Request
		want bool
	}{
		"none":     {http.Request{}, true},
		"small":    {http.Request{ContentLength: MaxBody}, true},
		"large":    {http.Request{ContentLength: MaxBody + 1}, false},
		"unknown":  {http.Request{ContentLength: -1}, false},
		"trailers": {http.Request{Trailer: http.Header{"Sum": nil}}, false},
		"expects":  {http.Request{Header: http.Header{"Expect": {"100-continue"}}}, false},
	} {
		if Takes(&test.req) != test.want {
			t.Error(name)
		}
	}
}

// TestLargestBody is sent to a server that responds without reading it.
func TestLargestBody(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(p *peer) {
			for {
				req, err := http.ReadRequest(p.r)
				if err != nil {
					return
				}
				p.response("early")
				io.Copy(io.Discard, req.Body)
			}
		})
		p := s.pool()
		for range 2 {
			if got, conn := post(t, p, strings.Repeat("b", MaxBody)); got != "early" || conn != "1" {
				t.Errorf("got %q over connection %s", got, conn)
			}
		}
	})
}

// TestOneWrite: a small request is one segment, or one TLS record.
func TestOneWrite(t *testing.T) {
	client, far := net.Pipe()
	defer far.Close()
	c := newConn(client)
	defer c.Close()
	first := make(chan int, 1)
	go func() {
		n, _ := far.Read(make([]byte, writeSize))
		first <- n
		io.Copy(io.Discard, bufio.NewReader(far))
	}()
	const size = 12 << 10
	body, err := ReadBody(strings.NewReader(strings.Repeat("b", size)), size)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(newRequest(t.Context(), "POST", ""), body); err != nil {
		t.Fatal(err)
	}
	if n := receive(t, first); n <= size {
		t.Errorf("%d bytes at first", n)
	}
}

// TestNoSocket: where nobody can look at a connection, it is not used again.
func TestNoSocket(t *testing.T) {
	client, far := net.Pipe()
	defer client.Close()
	defer far.Close()
	if newConn(client).isQuiet() {
		t.Error("a pipe is called quiet")
	}
}

// TestIdleConnectionIsSmall counts what is kept for one, besides TLS.
func TestIdleConnectionIsSmall(t *testing.T) {
	const n = 100
	client, far := net.Pipe()
	defer client.Close()
	defer far.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		newConn(client)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 6<<10 {
		t.Errorf("%d bytes", each)
	}
}

// TestEarlyResponse has a server that responds and closes without reading: the
// response arrives, whatever becomes of the request.
func TestEarlyResponse(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for _, size := range []int{4 << 10, MaxBody} {
			s := newServer(t, secure, func(p *peer) {
				p.send("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow")
				p.sent()
				p.cork.Close() // with unread bytes: a reset
			})
			pool := s.pool()
			for range 100 {
				response, err := pool.RoundTrip(newRequest(t.Context(), "POST", strings.Repeat("b", size)))
				if err != nil {
					t.Fatal(err)
				}
				if got := readAll(t, response); response.StatusCode != 429 || got != "slow" {
					t.Fatalf("status %d, body %q", response.StatusCode, got)
				}
			}
			s.want(100, 0)
		}
	})
}

// TestBodySizes reads bodies around the sizes of the buffers, in small pieces too.
func TestBodySizes(t *testing.T) {
	for _, size := range []int{1, 512, 513, 1 << 10, 4 << 10, 5000, 16 << 10, 20_000, MaxBody} {
		text := strings.Repeat("b", size)
		for _, r := range []io.Reader{strings.NewReader(text + "more"), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			b, err := ReadBody(r, int64(size))
			if err != nil {
				t.Fatal(size, err)
			}
			for range 2 { // a body can be sent again
				if got, err := io.ReadAll(b); err != nil || string(got) != text {
					t.Errorf("%d bytes: got %d (%v)", size, len(got), err)
				}
				b.Close()
			}
			b.Release()
		}
		if _, err := ReadBody(strings.NewReader(text[1:]), int64(size)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, one missing: %v", size, err)
		}
	}
}
