package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneConnectionForRequestsInTurn(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, echo)
		p := s.pool()
		for n := range 5 {
			body := fmt.Sprint("body ", n)
			if got, _ := post(t, p, body); got != body {
				t.Errorf("got %q, want %q", got, body)
			}
		}
		s.want(1, 5)
	})
}

// TestRequestOnTheWire compares what the server reads with what http.Transport
// would send.
func TestRequestOnTheWire(t *testing.T) {
	heads := make(chan *http.Request, 2)
	s := newServer(t, false, func(p *peer) {
		for {
			req, body := p.request()
			if req == nil {
				return
			}
			req.Header.Set("Test-Body", body)
			heads <- req
			p.response("")
		}
	})
	transport := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.dial(ctx)
	}}
	defer transport.CloseIdleConnections()
	pool := s.pool()
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", ""} {
		for _, body := range []string{"", "some bytes"} {
			var got [2]string
			for n, sender := range []http.RoundTripper{pool, transport} {
				req := newRequest(t.Context(), method, body)
				req.Header = http.Header{"Origin": {"https://page.example"}, "Double": {"a", "b\r\nInjected: c"}, "User-Agent": {""}}
				if n == 1 {
					req.Header["Double"] = []string{"a", "b  Injected: c"} // it refuses the other
				}
				response, err := sender.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				readAll(t, response)
				seen := receive(t, heads)
				got[n] = fmt.Sprintln(seen.Method, seen.RequestURI, seen.Proto, seen.Host, seen.ContentLength, seen.TransferEncoding, seen.Header)
			}
			if got[0] != got[1] {
				t.Errorf("%s with %q:\n%s\nhttp.Transport:\n%s", method, body, got[0], got[1])
			}
		}
	}
}

// open starts requests that have their heads, but not their bodies.
func open(t *testing.T, p *Pool, n int) []*http.Response {
	t.Helper()
	var responses []*http.Response
	for range n {
		response, err := p.RoundTrip(newRequest(t.Context(), "POST", "x"))
		if err != nil {
			t.Fatal(err)
		}
		responses = append(responses, response)
	}
	return responses
}

func TestLastUsedFirst(t *testing.T) {
	s := newServer(t, false, echo)
	p := s.pool()
	responses := open(t, p, 3)
	for _, n := range []int{2, 0, 1} {
		readAll(t, responses[n])
	}
	for range 3 {
		if _, conn := post(t, p, "x"); conn != "2" {
			t.Errorf("connection %s, want the one that was used last", conn)
		}
	}
	s.want(3, 6)
}

func TestMaxIdle(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		ended := make(chan int64, 3)
		s := newServer(t, secure, func(p *peer) { echo(p); ended <- p.n })
		p := s.pool()
		p.MaxIdle = 1
		for _, response := range open(t, p, 3) {
			readAll(t, response)
		}
		if a, b := receive(t, ended), receive(t, ended); a+b != 5 {
			t.Errorf("closed %d and %d, want 2 and 3", a, b)
		}
		if _, conn := post(t, p, "x"); conn != "1" {
			t.Errorf("connection %s, want the kept one", conn)
		}
		s.want(3, 4)
	})
}

func TestIdleTimeout(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		ended := make(chan int64, 2)
		s := newServer(t, secure, func(p *peer) { echo(p); ended <- p.n })
		p := s.pool()
		p.IdleTimeout = 10 * time.Millisecond
		for n := range int64(2) {
			post(t, p, "x")
			if got := receive(t, ended); got != n+1 {
				t.Errorf("connection %d ended, want %d", got, n+1)
			}
		}
	})
}

// TestIdleTimeoutOfEach has connections of different age.
func TestIdleTimeoutOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		ended := make(map[int]time.Duration)
		start, dialled := time.Now(), 0
		p := &Pool{MaxIdle: 8, IdleTimeout: time.Minute, MaxHeader: 1 << 10, Dial: func(context.Context) (net.Conn, error) {
			client, nc := net.Pipe()
			dialled++
			n := dialled
			go func() {
				io.Copy(io.Discard, nc)
				mu.Lock()
				defer mu.Unlock()
				ended[n] = time.Since(start)
			}()
			return client, nil
		}}
		defer p.Close()
		for range 3 {
			nc, _ := p.Dial(t.Context())
			p.put(newConn(nc))
			time.Sleep(20 * time.Second)
		}
		p.put(p.pop()) // the third again, at 60 s
		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		for n, want := range map[int]time.Duration{1: time.Minute, 2: 80 * time.Second, 3: 2 * time.Minute} {
			if ended[n] != want {
				t.Errorf("connection %d ended after %v, want %v", n, ended[n], want)
			}
		}
		mu.Unlock()
		if expiring(p) || kept(p) != 0 {
			t.Error("a timer runs on though nothing is idle")
		}

		p.IdleTimeout = 0
		nc, _ := p.Dial(t.Context())
		p.put(newConn(nc))
		time.Sleep(1000 * time.Hour)
		synctest.Wait()
		if mu.Lock(); ended[4] != 0 {
			t.Error("closed, though without a timeout")
		}
		mu.Unlock()
	})
}

// TestStaleConnection has the server do to an idle connection what makes it
// useless. What it did has arrived when done says so.
func TestStaleConnection(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for name, spoil := range map[string]func(*peer){
			"closed":      func(p *peer) { p.Close() },
			"cut off":     func(p *peer) { p.cork.Close() },
			"reset":       func(p *peer) { p.cork.Conn.(*net.TCPConn).SetLinger(0); p.cork.Close() },
			"half closed": func(p *peer) { p.cork.Conn.(*net.TCPConn).CloseWrite() },
			"farewell": func(p *peer) {
				if c, ok := p.Conn.(*tls.Conn); ok {
					c.CloseWrite()
				} else {
					p.Close()
				}
			},
			"408":      func(p *peer) { p.send("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n") },
			"smuggled": func(p *peer) { p.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil") },
			"one byte": func(p *peer) { p.send("\n") },
		} {
			t.Run(name, func(t *testing.T) {
				again, done := make(chan bool), make(chan bool)
				s := newServer(t, secure, func(p *peer) {
					if p.n > 1 {
						echo(p)
						return
					}
					_, body := p.request()
					p.response(body)
					<-again
					spoil(p)
					close(done)
					p.end()
				})
				p := s.pool()
				post(t, p, "first")
				close(again)
				receive(t, done)
				if got, conn := post(t, p, "second"); got != "second" || conn != "2" {
					t.Errorf("got %q over connection %s", got, conn)
				}
				s.want(2, 2)
			})
		}
	})
}

// TestNeverTwice has a kept connection fail when the server has read the request.
func TestNeverTwice(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		for _, body := range []string{"", "x"} {
			for name, fail := range map[string]func(*peer){
				"closed": func(p *peer) { p.Close() },
				"reset":  func(p *peer) { p.cork.Conn.(*net.TCPConn).SetLinger(0); p.cork.Close() },
				"half":   func(p *peer) { p.send("HTTP/1.1 200 OK\r\nContent-"); p.Close() },
			} {
				t.Run(name+body, func(t *testing.T) {
					s := newServer(t, secure, func(p *peer) {
						p.request()
						p.response("")
						p.request()
						fail(p)
					})
					p := s.pool()
					post(t, p, "")
					response, err := p.RoundTrip(newRequest(t.Context(), "GET", body))
					if err == nil {
						t.Errorf("response %v", response)
					}
					s.want(1, 2)
				})
			}
		}
	})
}

func TestDialFails(t *testing.T) {
	broken := errors.New("no route")
	p := &Pool{Dial: func(context.Context) (net.Conn, error) { return nil, broken }}
	if _, err := p.RoundTrip(newRequest(t.Context(), "POST", "x")); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestClose(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		ended := make(chan int64, 3)
		s := newServer(t, secure, func(p *peer) { echo(p); ended <- p.n })
		p := s.pool()
		responses := open(t, p, 2)
		readAll(t, responses[0])
		p.Close()
		if n := receive(t, ended); n != 1 {
			t.Errorf("connection %d closed, want the idle one", n)
		}
		if got := readAll(t, responses[1]); got != "x" {
			t.Errorf("an request that was under way got %q", got)
		}
		receive(t, ended)
		if got, _ := post(t, p, "late"); got != "late" {
			t.Errorf("got %q", got)
		}
		receive(t, ended)
		p.Close()
		s.want(3, 3)
	})
}

func TestConcurrently(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		const senders, each = 8, 40
		s := newServer(t, secure, echo)
		p := s.pool()
		p.MaxIdle = 4
		p.IdleTimeout = 5 * time.Millisecond
		var all sync.WaitGroup
		for n := range senders {
			all.Go(func() {
				for i := range each {
					ctx, cancel := context.WithCancel(t.Context())
					body := fmt.Sprint(n, " ", i)
					response, err := p.RoundTrip(newRequest(ctx, "POST", body))
					if i%5 == 0 {
						cancel() // while the body is read, or not
					}
					if err != nil {
						t.Error(err)
						cancel()
						return
					}
					got, err := io.ReadAll(response.Body)
					response.Body.Close()
					if cancel(); err == nil && string(got) != body || err != nil && i%5 != 0 {
						t.Errorf("got %q, want %q (%v)", got, body, err)
					}
				}
			})
		}
		all.Wait()
		if got := s.requests.Load(); got != senders*each {
			t.Errorf("%d requests, want %d", got, senders*each)
		}
		if n := kept(p); n > p.MaxIdle {
			t.Errorf("%d idle connections", n)
		}
	})
}
