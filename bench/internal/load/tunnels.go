package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// opening is how many handshakes are under way at a time.
const opening = 16

// upgrade is what Chromium sends for the SDK, in the same fields.
const upgrade = "GET /?apiKey=bench-0000-0000&timestamp=1700000000000&apiVersion=v1&sessionId=%08x&newConnection=true HTTP/1.1\r\n" +
	"Host: %s\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Upgrade: websocket\r\nOrigin: https://app.test\r\nSec-WebSocket-Version: 13\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n" +
	"Sec-WebSocket-Key: " + wstest.SampleKey + "\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: 2.0\r\n\r\n"

// Tunnels is a set of open WebSockets. One caller at a time may send on them.
type Tunnels struct {
	conns   []net.Conn
	closing atomic.Bool
	replies atomic.Int64

	mu  sync.Mutex
	rtt []time.Duration // of the messages of the current Send
	err error           // the first of any tunnel
}

// OpenTunnels opens count tunnels and returns once each has been greeted.
func OpenTunnels(ctx context.Context, target Target, count int) (*Tunnels, error) {
	t := &Tunnels{conns: make([]net.Conn, count)}
	err := eachOf(count, func(id int) error {
		conn, r, err := target.openTunnel(ctx, id)
		if err != nil {
			return err
		}
		t.conns[id] = conn
		go t.receive(r, id)
		return nil
	})
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// eachOf calls f with the numbers below count, some at a time, until one fails.
func eachOf(count int, f func(id int) error) error {
	var next atomic.Int64
	var workers sync.WaitGroup
	errs := make([]error, opening)
	for i := range errs {
		workers.Go(func() {
			for errs[i] == nil {
				id := int(next.Add(1)) - 1
				if id >= count {
					return
				}
				if err := f(id); err != nil {
					next.Store(int64(count))
					errs[i] = fmt.Errorf("connection %d: %w", id, err)
				}
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// openTunnel opens one tunnel and returns once it has been greeted.
func (t Target) openTunnel(ctx context.Context, id int) (net.Conn, *bufio.Reader, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	r := newReader(conn)
	if _, err = conn.Write(t.Upgrade(id)); err == nil {
		err = ReadGreeting(r)
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, r, nil
}

// Upgrade is the request of tunnel id.
func (t Target) Upgrade(id int) []byte { return fmt.Appendf(nil, upgrade, id, t.TLS.ServerName) }

// ReadUpgrade reads the response to a request that Upgrade made.
func ReadUpgrade(r *bufio.Reader) error {
	head, err := wire.ReadHead(r)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) || string(wire.Field(head, "Sec-WebSocket-Accept")) != wstest.SampleAccept ||
		string(wire.Field(head, "Sec-WebSocket-Protocol")) != "2.0" {
		return fmt.Errorf("no WebSocket: %q", head)
	}
	return nil
}

// ReadGreeting reads that response and what the relay says first.
func ReadGreeting(r *bufio.Reader) error {
	if err := ReadUpgrade(r); err != nil {
		return err
	}
	greeting, err := wstest.NewReader(r, false).Next()
	if err == nil && string(greeting.Payload) != relay.Greeting {
		err = fmt.Errorf("a wrong greeting: %s", greeting)
	}
	return err
}

// receive checks the replies of one tunnel until it ends.
func (t *Tunnels) receive(r *bufio.Reader, id int) {
	frames := wstest.NewReader(r, false)
	frames.Reuse = true
	for {
		reply, err := frames.Next()
		if err != nil {
			if !t.closing.Load() {
				t.fail(fmt.Errorf("tunnel %d ended: %w", id, err))
			}
			return
		}
		sent, from, err := wire.ParseReply(reply.Payload)
		if err == nil && from != id {
			err = fmt.Errorf("it got the reply of tunnel %d", from)
		}
		if err != nil {
			t.fail(fmt.Errorf("tunnel %d: %w", id, err))
			return
		}
		t.record(now() - sent)
	}
}

func (t *Tunnels) record(rtt time.Duration) {
	t.mu.Lock()
	t.rtt = append(t.rtt, rtt)
	t.mu.Unlock()
	t.replies.Add(1)
}

func (t *Tunnels) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

func (t *Tunnels) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Send sends messages as the pace asks for, for as long as asked, and returns
// the round trip of each once every reply has come.
func (t *Tunnels) Send(ctx context.Context, pace Pace, d time.Duration) ([]time.Duration, error) {
	s := newSchedule(pace, len(t.conns))
	t.replies.Store(0)
	t.mu.Lock()
	t.rtt = make([]time.Duration, 0, s.count(d))
	t.mu.Unlock()

	sent, err := t.sendAll(ctx, s, d)
	if err != nil {
		return nil, err
	}
	if err := t.awaitReplies(ctx, sent); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rtt, nil
}

func (t *Tunnels) sendAll(ctx context.Context, s schedule, d time.Duration) (sent int64, err error) {
	var frame wire.MessageFrame
	start := now()
	for at, id := range s.until(d) {
		if err := sleepUntil(ctx, start+at); err != nil {
			return sent, err
		}
		if _, err := t.conns[id].Write(frame.Encode(now(), id)); err != nil {
			return sent, errors.Join(t.failure(), fmt.Errorf("sending on tunnel %d: %w", id, err))
		}
		sent++
	}
	return sent, nil
}

// patience is how long the last replies may take.
const patience = 10 * time.Second

func (t *Tunnels) awaitReplies(ctx context.Context, sent int64) error {
	deadline := now() + patience
	for {
		missing := sent - t.replies.Load()
		if err := t.failure(); err != nil || missing == 0 {
			return err
		}
		if now() > deadline {
			return fmt.Errorf("%d of %d messages got no reply", missing, sent)
		}
		if err := sleepUntil(ctx, now()+10*time.Millisecond); err != nil {
			return err
		}
	}
}

// WriteRaw writes p to the TCP connection of each tunnel, beneath TLS.
func (t *Tunnels) WriteRaw(p []byte) error {
	for id, conn := range t.conns {
		if _, err := conn.(*tls.Conn).NetConn().Write(p); err != nil {
			return errors.Join(t.failure(), fmt.Errorf("tunnel %d: %w", id, err))
		}
	}
	return nil
}

// Close ends all tunnels without a Close frame, as a browser does that is closed.
func (t *Tunnels) Close() {
	t.closing.Store(true)
	for _, conn := range t.conns {
		if conn != nil {
			conn.Close()
		}
	}
}
