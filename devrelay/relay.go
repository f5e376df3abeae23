// Package devrelay is a stand-in for the watchRTC relay: it speaks what the
// SDK expects of one, remembers a bounded part of what it receives, and shows
// that on a live page. Examples and tests run against it; it stores nothing and
// is not meant for production.
//
// New gives an http.Handler for Go tests, the Caddy handler
// http.handlers.watchrtc_dev_relay serves the same one.
package devrelay

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Config bounds what a Relay accepts and remembers. The zero value of each field
// means its default.
type Config struct {
	// The largest WebSocket message and the largest request body accepted, in
	// bytes. A larger message closes its connection with code 1009, a larger body
	// gets 413. Default: 1 MiB.
	MaxMessageSize int64

	// How many connections may be open at once. One more gets 503. As many
	// are remembered, open and closed ones together. Default: 500.
	MaxConnections int

	// How many of the latest messages, and of the latest HTTP requests, are
	// remembered. Default: 50.
	Keep int

	// How many bytes of a message or body are remembered. The rest is read and
	// counted. Default: 16 KiB.
	KeepBytes int
}

const (
	// maxHeaderSize bounds what one remembered request can cost.
	maxHeaderSize = 64 << 10

	// closeGrace is how long Relay.Close waits for clients to answer a Close frame.
	closeGrace = time.Second
)

func (c Config) withDefaults() Config {
	if c.MaxMessageSize <= 0 {
		c.MaxMessageSize = 1 << 20
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 500
	}
	if c.Keep <= 0 {
		c.Keep = 50
	}
	if c.KeepBytes <= 0 {
		c.KeepBytes = 16 << 10
	}
	return c
}

// Relay is the stand-in relay. Its methods may be called concurrently.
type Relay struct {
	config   Config
	handlers sync.WaitGroup
	closing  sync.Once

	mu       sync.Mutex // guards what follows and the mutable part of each Conn
	closed   bool
	slots    int     // connections open or in their handshake
	opened   int64   // connections ever opened
	conns    []*Conn // oldest first, as are the two below
	requests []Request
	messages []Message
	changed  chan struct{} // closed at the next change; nil when nobody waits
}

// New returns a Relay, to be closed after use.
func New(config Config) *Relay {
	return &Relay{config: config.withDefaults()}
}

// ServeHTTP responds as a relay does: WebSockets at /, POST /trace and /error,
// GET /get-qualityrtc-config, CORS everywhere. The live page is at / for requests
// that are no WebSocket handshake.
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.serveView(w, req) {
		return
	}
	if headerSize(req) > maxHeaderSize {
		http.Error(w, "header too large", http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	allowAnyOrigin(w.Header())
	if isUpgrade(req) {
		r.serveWebSocket(w, req)
		return
	}
	if err := r.receive(w, req); err != nil {
		respondReadError(w, err)
		return
	}
	respond(w, req)
}

// respond is the relay's HTTP side.
func respond(w http.ResponseWriter, req *http.Request) {
	switch route := req.Method + " " + req.URL.Path; {
	case req.Method == http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	case route == "POST /trace", route == "POST /error":
		writeJSON(w, http.StatusOK, map[string]bool{"ok": true})
	case route == "GET /get-qualityrtc-config" && hasKey(req.RequestURI):
		writeJSON(w, http.StatusOK, map[string]any{
			"jsonConfig": map[string]any{"config": map[string]any{}},
			"url":        "https://quality.invalid", // the SDK fails without a URL
		})
	case route == "GET /get-qualityrtc-config":
		writeJSON(w, http.StatusUnauthorized, missingKey)
	default:
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "no such endpoint"})
	}
}

func respondReadError(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		writeJSON(w, http.StatusRequestEntityTooLarge, map[string]string{"error": "body too large"})
		return
	}
	writeJSON(w, http.StatusBadRequest, map[string]string{"error": "body ended early"})
}

func (r *Relay) serveWebSocket(w http.ResponseWriter, req *http.Request) {
	seen := newRequest(req)
	r.remember(seen)
	if req.URL.Path != "/" {
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "no WebSocket here"})
		return
	}
	if !r.reserve() {
		http.Error(w, "too many connections", http.StatusServiceUnavailable)
		return
	}
	defer r.release()
	socket := &socketKeeper{ResponseWriter: w}
	ws, err := websocket.Accept(socket, req, &websocket.AcceptOptions{
		Subprotocols: []string{"2.0"},
		// A relay serves pages of any origin.
		InsecureSkipVerify: true,
		// Without context takeover a connection holds no compressor while idle.
		CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		return // Accept has responded
	}
	ws.SetReadLimit(r.config.MaxMessageSize)
	r.open(ws, socket.conn, seen).serve()
}

// socketKeeper remembers the socket that a WebSocket takes over.
type socketKeeper struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (k *socketKeeper) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(k.ResponseWriter).Hijack()
	k.conn = conn
	return conn, buffered, err
}

// reserve takes one of the places for open connections.
func (r *Relay) reserve() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.slots >= r.config.MaxConnections {
		return false
	}
	r.slots++
	r.handlers.Add(1)
	return true
}

func (r *Relay) release() {
	r.mu.Lock()
	r.slots--
	r.mu.Unlock()
	r.handlers.Done()
}

// Close ends every connection, with code 1001 where the client answers in time,
// and waits until all are gone. New connections are refused from then on.
func (r *Relay) Close() error {
	r.closing.Do(r.close)
	return nil
}

func (r *Relay) close() {
	r.mu.Lock()
	r.closed = true
	conns := slices.Clone(r.conns)
	r.mu.Unlock()

	for _, c := range conns {
		r.handlers.Go(c.dismiss)
	}
	r.handlers.Wait()
}

// missingKey is what the SDK takes for "do not try again".
var missingKey = map[string]string{"error": "apiKey or token is missing"}

func hasKey(uri string) bool {
	query := queryOf(uri)
	return query.Get("apiKey") != "" || query.Get("token") != ""
}

func isUpgrade(req *http.Request) bool {
	return strings.EqualFold(req.Header.Get("Upgrade"), "websocket")
}

func headerSize(req *http.Request) int {
	size := len(req.RequestURI) + len(req.Host)
	for field, values := range req.Header {
		for _, value := range values {
			size += len(field) + len(value)
		}
	}
	return size
}

func allowAnyOrigin(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Content-Type")
	h.Set("Access-Control-Max-Age", "600")
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone; nothing is owed to it then
}
