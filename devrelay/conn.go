package devrelay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/coder/websocket"
)

const (
	// sendTimeout bounds the greeting, so that a client that does not read holds
	// no handler.
	sendTimeout = 10 * time.Second

	// statsInterval is how often the greeting asks clients for statistics.
	statsInterval = 8 * time.Second
)

// Conn is one WebSocket connection, open or closed.
type Conn struct {
	ID          int64   // 1 for the first connection of its relay
	Request     Request // the handshake
	Subprotocol string

	relay  *Relay
	ws     *websocket.Conn
	socket net.Conn // that ws runs on
	done   chan struct{}

	// guarded by relay.mu
	identity    Identity
	stats       Stats
	closedAt    time.Time // zero while open
	closeCode   int
	closeReason string
}

// Stats counts the messages of a connection and their bytes, inflated and
// without framing.
type Stats struct {
	MessagesIn  int64 `json:"messagesIn"`
	BytesIn     int64 `json:"bytesIn"`
	MessagesOut int64 `json:"messagesOut"`
	BytesOut    int64 `json:"bytesOut"`
}

// open adds a connection and forgets the oldest closed one when there are too
// many.
func (r *Relay) open(ws *websocket.Conn, socket net.Conn, seen Request) *Conn {
	c := &Conn{
		Request:     seen,
		Subprotocol: ws.Subprotocol(),
		relay:       r,
		ws:          ws,
		socket:      socket,
		done:        make(chan struct{}),
	}
	c.identity.Session = queryOf(seen.URI).Get("sessionId")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened++
	c.ID = r.opened
	r.conns = append(r.conns, c)
	r.forgetClosed()
	r.broadcast()
	if r.closed {
		c.Abort() // Relay.Close has not seen it
	}
	return c
}

// forgetClosed keeps no more connections than may be open. When there is one too
// many, one of them has closed. r is locked.
func (r *Relay) forgetClosed() {
	if len(r.conns) <= r.config.MaxConnections {
		return
	}
	if i := slices.IndexFunc(r.conns, func(c *Conn) bool { return !c.closedAt.IsZero() }); i >= 0 {
		r.conns = slices.Delete(r.conns, i, i+1)
	}
}

// serve speaks first, then reads until the connection ends.
func (c *Conn) serve() {
	defer c.ws.CloseNow()
	err := c.greet()
	for err == nil {
		err = c.read()
	}
	c.finish(err)
}

func (c *Conn) greet() error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	if !hasKey(c.Request.URI) {
		return c.refuse(ctx)
	}
	return c.sendJSON(ctx, map[string]any{
		"connectionId":             fmt.Sprintf("dev-relay-%d", c.ID),
		"projectId":                "dev-relay",
		"interval":                 statsInterval.Milliseconds(),
		"sendInterval":             1,
		"collectConsoleLogEnabled": false,
	})
}

// refuse returns how the connection ended, never nil.
func (c *Conn) refuse(ctx context.Context) error {
	if err := c.sendJSON(ctx, missingKey); err != nil {
		return err
	}
	if err := c.Close(websocket.StatusPolicyViolation, missingKey["error"]); err != nil {
		return err
	}
	return websocket.CloseError{Code: websocket.StatusPolicyViolation, Reason: missingKey["error"]}
}

// read needs no deadline: Close and Abort end it.
func (c *Conn) read() error {
	kind, src, err := c.ws.Reader(context.Background())
	if err != nil {
		return err
	}
	data, size, err := readClipped(src, c.relay.config.KeepBytes)
	if err != nil {
		return err
	}
	c.received(Message{Time: time.Now(), Conn: c, Type: kind, Data: data, Size: size})
	return nil
}

func (c *Conn) received(m Message) {
	r := c.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	c.stats.MessagesIn++
	c.stats.BytesIn += m.Size
	m.Seq = c.stats.MessagesIn
	c.identity.learn(m)
	r.messages = appendLatest(r.messages, m, r.config.Keep)
	r.broadcast()
}

func (c *Conn) finish(err error) {
	code, reason := closeOf(err)
	r := c.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	c.closedAt, c.closeCode, c.closeReason = time.Now(), code, reason
	close(c.done)
	r.broadcast()
}

// closeOf gives the close code a connection ended with: what the client sent,
// 1009 when its message was too big, 1006 when it went without a Close frame.
func closeOf(err error) (code int, reason string) {
	var received websocket.CloseError
	switch {
	case errors.As(err, &received):
		return int(received.Code), received.Reason
	case errors.Is(err, websocket.ErrMessageTooBig):
		return int(websocket.StatusMessageTooBig), ""
	case errors.Is(err, io.EOF):
		return int(websocket.StatusAbnormalClosure), "connection ended without a Close frame"
	default:
		return int(websocket.StatusAbnormalClosure), "connection broke"
	}
}

func (c *Conn) sendJSON(ctx context.Context, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.Send(ctx, websocket.MessageText, data)
}

// Send sends one message to the client.
func (c *Conn) Send(ctx context.Context, kind websocket.MessageType, data []byte) error {
	if err := c.ws.Write(ctx, kind, data); err != nil {
		return err
	}
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	c.stats.MessagesOut++
	c.stats.BytesOut += int64(len(data))
	return nil
}

// Close sends a Close frame and waits up to 5 s for the client's.
func (c *Conn) Close(code websocket.StatusCode, reason string) error {
	return c.ws.Close(code, reason)
}

// Abort drops the connection without a Close frame, even while Close waits.
func (c *Conn) Abort() { _ = c.socket.Close() }

// dismiss closes the connection, and drops it when the client does not answer soon.
func (c *Conn) dismiss() {
	impatient := time.AfterFunc(closeGrace, c.Abort)
	defer impatient.Stop()
	_ = c.Close(websocket.StatusGoingAway, "relay stopped")
}

// Done is closed once the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// CloseCode returns the code and reason of the Close frame received, or 1006 if
// there was none, and 0 while the connection is open.
func (c *Conn) CloseCode() (code int, reason string) {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	return c.closeCode, c.closeReason
}

// Stats returns the counts so far.
func (c *Conn) Stats() Stats {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	return c.stats
}

// WaitMessage waits for the n-th message the connection receives, counted from 1.
func (c *Conn) WaitMessage(ctx context.Context, n int64) (Message, error) {
	return wait(ctx, c.relay, func() (found Message, ok bool) {
		for _, m := range c.relay.messages {
			if m.Conn == c && m.Seq == n {
				return m, true
			}
		}
		return found, false
	})
}
