//go:build unix

package reloadtest

import (
	"crypto/tls"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// relay takes WebSockets over TLS and sends each message back. The query of the
// handshake changes that:
//
//	slow=1  sends large messages of many frames, sent bit by bit
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
	config := testCA.Issue("localhost", "127.0.0.1").ServerConfig()
	config.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	r := &relay{held: make(chan chan struct{}), legs: make(map[uint64]*peer)}
	r.more.L = &r.mu
	r.addr = wstest.NewRelay(t, config, r.serve).Addr
	return r
}

func (r *relay) serve(c *wstest.Conn) {
	c.SetDeadline(time.Time{}) // some tunnels outlive wstest.Patience
	req, err := http.ReadRequest(c.R)
	if err != nil {
		return
	}
	query := req.URL.Query()
	id, err := strconv.ParseUint(query.Get("sessionId"), 10, 64)
	if query.Has("pour") {
		c.WriteResponseHead("200 OK", "Connection: close")
		io.Copy(c, zeros{})
		return
	}
	if err != nil {
		io.Copy(io.Discard, req.Body)
		c.WriteResponse("200 OK", "relay", "Connection: close")
		return
	}
	if query.Has("held") {
		resume := make(chan struct{})
		r.held <- resume
		<-resume
	}
	c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Accept: "+wstest.Accept(req.Header.Get("Sec-WebSocket-Key")))
	leg := newPeer(c, c.R, id, false)
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
