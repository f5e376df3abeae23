//go:build unix

package reloadtest

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// relay takes WebSockets over TLS and sends each message back. The query of the
// handshake changes that:
//
//	slow=1  answers with large messages of many frames, sent bit by bit
//	flood=1 sends without end, whether or not anyone reads
//	held=1  waits for the channel that it sends on held to be closed
//
// Requests that are no handshakes get a response of five bytes, after their bodies,
// and with pour=1 one that does not end.
type relay struct {
	addr string
	held chan chan struct{}

	mu   sync.Mutex // protects legs
	more sync.Cond
	legs map[uint64]*peer
}

func startRelay(t testing.TB) *relay {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates:     []tls.Certificate{testCA.Issue("localhost", "127.0.0.1").TLS},
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String(), held: make(chan chan struct{}), legs: make(map[uint64]*peer)}
	r.more.L = &r.mu
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { r.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		r.mu.Lock()
		for _, leg := range r.legs {
			leg.conn.Close()
		}
		r.mu.Unlock()
		serving.Wait()
	})
	return r
}

func (r *relay) serve(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReaderSize(conn, 512)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	query := req.URL.Query()
	id, err := strconv.ParseUint(query.Get("sessionId"), 10, 64)
	if query.Has("pour") {
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		io.Copy(conn, zeros{})
		return
	}
	if err != nil {
		io.Copy(io.Discard, req.Body)
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nrelay")
		return
	}
	if query.Has("held") {
		resume := make(chan struct{})
		r.held <- resume
		<-resume
	}
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptFor(req.Header.Get("Sec-WebSocket-Key")))
	leg := newPeer(conn, br, id, false)
	r.mu.Lock()
	r.legs[id] = leg
	r.more.Broadcast()
	r.mu.Unlock()

	handle := func(m []byte) error { return leg.send(len(m), 1) }
	switch {
	case query.Has("slow"):
		done := make(chan struct{})
		defer close(done)
		handle = ignore
		go slowly(leg, done)
	case query.Has("flood"):
		go func() {
			for leg.send(8192, 1) == nil {
			}
		}()
	}
	leg.run(handle)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// slowly sends large messages through p, each over about a second, until the leg is
// over.
func slowly(p *peer, done <-chan struct{}) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		default:
		}
		if p.sendSlowly(50_000, 5, 20, ticker.C) != nil {
			return
		}
	}
}

// leg returns the relay's end of the tunnel that the client knows by this id.
func (r *relay) leg(id uint64) *peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.legs[id]
}

// await returns the relay's end of a tunnel that is being opened.
func (r *relay) await(id uint64) *peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.legs[id] == nil {
		r.more.Wait()
	}
	return r.legs[id]
}

// acceptFor returns the Sec-WebSocket-Accept for key (RFC 6455, section 4.2.2).
func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
