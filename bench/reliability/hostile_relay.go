package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
)

// hostileRelay serves bystanders as the other relay does, and responds to all else as the
// attack that goes on has it.
type hostileRelay struct {
	listener net.Listener
	serving  sync.WaitGroup
	poured   atomic.Int64 // bytes, in this attack

	mu       sync.Mutex // protects the rest
	attack   *attack
	requests []*http.Request
	conns    map[net.Conn]bool
	stopped  bool
}

// exchange is one request to the hostile relay.
type exchange struct {
	*wstest.Conn
	request *http.Request
	number  int // of requests in this attack, from 1
	onConn  int // the same, over this connection
	relay   *hostileRelay
}

func startHostileRelay(lab *contestant.Lab) (*hostileRelay, error) {
	config, err := relay.TLSConfig(lab.Certs.Relay.Cert, lab.Certs.Relay.Key)
	if err != nil {
		return nil, err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return nil, err
	}
	r := &hostileRelay{listener: listener, conns: map[net.Conn]bool{}}
	r.serving.Go(r.accept)
	return r, nil
}

func (r *hostileRelay) addr() string { return r.listener.Addr().String() }

func (r *hostileRelay) stop() {
	r.listener.Close()
	r.mu.Lock()
	r.stopped = true
	for conn := range r.conns {
		conn.Close()
	}
	r.mu.Unlock()
	r.serving.Wait()
}

// expect has all requests from now on be part of an attack.
func (r *hostileRelay) expect(attack *attack) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attack, r.requests = attack, nil
	r.poured.Store(0)
}

// seen are the requests of this attack.
func (r *hostileRelay) seen() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func (r *hostileRelay) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.serving.Go(func() {
			defer conn.Close()
			if r.enter(conn) {
				defer r.leave(conn)
				r.serve(conn)
			}
		})
	}
}

func (r *hostileRelay) enter(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[conn] = true
	return !r.stopped
}

func (r *hostileRelay) leave(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

func (r *hostileRelay) serve(conn net.Conn) {
	c := wstest.NewConn(conn, false)
	for onConn := 1; ; onConn++ {
		request, err := c.ReadRequest()
		if err != nil {
			return
		}
		attack, number := r.take(request)
		switch {
		case attack != nil && attack.relay != nil:
			attack.relay(&exchange{c, request, number, onConn, r})
		case request.Header.Get("Sec-Websocket-Key") != "":
			relay.ServeTunnel(conn, bufio.NewReader(c.R), wstest.Accept(request.Header.Get("Sec-Websocket-Key")))
			return
		default:
			_ = c.WriteResponse("200 OK", "fine")
		}
		if _, err := c.R.Peek(1); err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// take counts a request of an attack. It returns none for a bystander's.
func (r *hostileRelay) take(request *http.Request) (*attack, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attack == nil || request.URL.Query().Has("sessionId") {
		return nil, 0
	}
	r.requests = append(r.requests, request)
	return r.attack, len(r.requests)
}

// pour writes text again and again until that fails or 64 MiB are gone.
func (e *exchange) pour(text string) {
	for size := 0; size < 64<<20; size += len(text) {
		_ = e.SetWriteDeadline(time.Now().Add(3 * time.Second))
		if e.WriteText(text) != nil {
			return
		}
		e.relay.poured.Add(int64(len(text)))
	}
}
