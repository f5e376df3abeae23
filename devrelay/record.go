package devrelay

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/coder/websocket"
)

// Request is what the relay saw of one HTTP request or WebSocket handshake,
// secrets included.
type Request struct {
	Time       time.Time
	Method     string
	URI        string // as on the request line
	Host       string
	Proto      string
	RemoteAddr string
	Header     http.Header
	Trailer    http.Header
	TLS        *tls.ConnectionState // nil without TLS
	Body       []byte               // its first Config.KeepBytes
	BodySize   int64
	BodyErr    error // why the body ended early, if it did
}

func newRequest(req *http.Request) Request {
	return Request{
		Time:       time.Now(),
		Method:     req.Method,
		URI:        req.RequestURI,
		Host:       req.Host,
		Proto:      req.Proto,
		RemoteAddr: req.RemoteAddr,
		Header:     req.Header.Clone(),
		TLS:        req.TLS,
	}
}

// Message is one WebSocket message that the relay received.
type Message struct {
	Time time.Time
	Conn *Conn
	Seq  int64 // 1 for the first message of its connection
	Type websocket.MessageType
	Data []byte // its first Config.KeepBytes, inflated
	Size int64
}

// receive reads the body of an HTTP request and remembers the two.
func (r *Relay) receive(w http.ResponseWriter, req *http.Request) error {
	seen := newRequest(req)
	body := http.MaxBytesReader(w, req.Body, r.config.MaxMessageSize)
	seen.Body, seen.BodySize, seen.BodyErr = readClipped(body, r.config.KeepBytes)
	seen.Trailer = req.Trailer
	r.remember(seen)
	return seen.BodyErr
}

// readClipped reads src to its end, keeps the first limit bytes and counts all.
func readClipped(src io.Reader, limit int) (kept []byte, size int64, err error) {
	kept, err = io.ReadAll(io.LimitReader(src, int64(limit)))
	if err != nil || len(kept) < limit {
		return kept, int64(len(kept)), err
	}
	rest, err := io.Copy(io.Discard, src)
	return kept, int64(limit) + rest, err
}

func (r *Relay) remember(seen Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = appendLatest(r.requests, seen, r.config.Keep)
	r.broadcast()
}

// appendLatest appends and drops the oldest beyond limit.
func appendLatest[T any](list []T, item T, limit int) []T {
	list = append(list, item)
	return list[max(0, len(list)-limit):]
}

// Requests returns the latest HTTP requests and WebSocket handshakes, oldest
// first. Those for the live page are not among them.
func (r *Relay) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Messages returns the latest messages of all connections, oldest first.
func (r *Relay) Messages() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// Conns returns the remembered connections, oldest first.
func (r *Relay) Conns() []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.conns)
}

// WaitRequest waits until a remembered request matches, and returns the latest
// that does.
func (r *Relay) WaitRequest(ctx context.Context, match func(Request) bool) (Request, error) {
	return wait(ctx, r, func() (found Request, ok bool) {
		for _, seen := range slices.Backward(r.requests) {
			if match(seen) {
				return seen, true
			}
		}
		return found, false
	})
}

// WaitConn waits for the n-th connection that was ever opened, counted from 1.
func (r *Relay) WaitConn(ctx context.Context, n int64) (*Conn, error) {
	return wait(ctx, r, func() (*Conn, bool) {
		i := slices.IndexFunc(r.conns, func(c *Conn) bool { return c.ID == n })
		if i < 0 {
			return nil, false
		}
		return r.conns[i], true
	})
}

// wait calls find, with r locked, at each change until it is satisfied.
func wait[T any](ctx context.Context, r *Relay, find func() (T, bool)) (T, error) {
	for {
		r.mu.Lock()
		found, ok := find()
		if !ok && r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		if ok {
			return found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
}

// broadcast wakes those who wait. r is locked.
func (r *Relay) broadcast() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}
