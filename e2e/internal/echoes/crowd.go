// Package echoes has WebSocket clients that know each byte that must come, and the relay
// that sends it.
package echoes

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Config says what the clients of a Crowd do.
type Config struct {
	URL   string      // where the proxy is mounted
	Addr  string      // host:port to connect to; default: the URL's
	TLS   *tls.Config // of the clients
	Pause time.Duration
	// Flood has the relay send, and the clients only read.
	Flood bool
	// Patience bounds a handshake, and Stall the wait for a message.
	Patience, Stall time.Duration
}

// Summary is what the clients of a Crowd have seen.
type Summary struct {
	Opened   int
	Refused  map[int]int // handshakes without a WebSocket, by status; 0 where none came
	Closed   int         // ended by Close, in order
	Broken   int         // ended before, or without a Close frame in return
	Messages int
	Bytes    int
	Damaged  int           // messages that were not those that were due
	Worst    time.Duration // the longest wait for a message since Mark
	Errors   []string      // a few
}

// maxErrors bounds Summary.Errors.
const maxErrors = 10

// maxMessage is the longest message.
const maxMessage = 4096

// message is number n of a tunnel.
func message(tunnel, n uint64) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], tunnel)
	binary.LittleEndian.PutUint64(seed[8:], n)
	random := rand.NewChaCha8(seed)
	p := make([]byte, random.Uint64()%maxMessage+1)
	_, _ = random.Read(p) // it never fails
	return p
}

// ids number the tunnels of the process.
var ids atomic.Uint64

// Crowd are clients. Its methods may be called concurrently.
type Crowd struct {
	config Config
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // protects what follows
	changed sync.Cond  // a tunnel has ended
	summary Summary
	tunnels map[*tunnel]bool // open
}

type tunnel struct {
	id   uint64
	ws   *websocket.Conn
	stop chan struct{} // closed to end it in order
	done chan struct{}
}

// New returns a Crowd, to be closed after use.
func New(config Config) *Crowd {
	c := &Crowd{config: config, summary: Summary{Refused: make(map[int]int)}, tunnels: make(map[*tunnel]bool)}
	c.changed.L = &c.mu
	c.ctx, c.cancel = context.WithCancel(context.Background())
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: config.TLS}
	if config.Addr != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, config.Addr)
		}
	}
	c.client = &http.Client{Transport: transport}
	return c
}

// Open makes n handshakes at once and returns when each has ended. Those that succeed
// send messages from then on, or read them.
func (c *Crowd) Open(n int) {
	var opening sync.WaitGroup
	for range n {
		opening.Go(c.open)
	}
	opening.Wait()
}

func (c *Crowd) open() {
	t := &tunnel{id: ids.Add(1), stop: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(c.ctx, c.config.Patience)
	defer cancel()
	flood := ""
	if c.config.Flood {
		flood = "&flood=1"
	}
	ws, response, err := websocket.Dial(ctx, fmt.Sprintf("%s?apiKey=k&tunnel=%d%s", c.config.URL, t.id, flood),
		&websocket.DialOptions{HTTPClient: c.client, CompressionMode: websocket.CompressionDisabled})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		status := 0
		if response != nil {
			status = response.StatusCode
		}
		c.summary.Refused[status]++
		c.note(err)
		return
	}
	ws.SetReadLimit(2 * maxMessage)
	t.ws = ws
	c.summary.Opened++
	c.tunnels[t] = true
	go c.run(t)
}

// note keeps an error; c.mu is held.
func (c *Crowd) note(err error) {
	if len(c.summary.Errors) < maxErrors {
		c.summary.Errors = append(c.summary.Errors, err.Error())
	}
}

// run is a tunnel's life.
func (c *Crowd) run(t *tunnel) {
	defer close(t.done)
	err := c.talk(t)
	if err == nil {
		err = t.ws.Close(websocket.StatusNormalClosure, "")
	}
	_ = t.ws.CloseNow() // it may be closed already
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tunnels, t)
	defer c.changed.Broadcast()
	if err == nil {
		c.summary.Closed++
		return
	}
	c.summary.Broken++
	c.note(err)
}

var errDamaged = errors.New("a message that was not due")

// talk returns nil once it is told to stop.
func (c *Crowd) talk(t *tunnel) error {
	for n := uint64(0); ; n++ {
		due, begun := message(t.id, n), time.Now()
		if err := c.exchange(t, due); err != nil {
			return err
		}
		c.mu.Lock()
		c.summary.Messages++
		c.summary.Bytes += len(due)
		c.summary.Worst = max(c.summary.Worst, time.Since(begun))
		c.mu.Unlock()
		select {
		case <-t.stop:
			return nil
		case <-time.After(c.config.Pause):
		}
	}
}

func (c *Crowd) exchange(t *tunnel, due []byte) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.config.Stall)
	defer cancel()
	if !c.config.Flood {
		if err := t.ws.Write(ctx, websocket.MessageBinary, due); err != nil {
			return err
		}
	}
	_, got, err := t.ws.Read(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, due) {
		c.mu.Lock()
		c.summary.Damaged++
		c.mu.Unlock()
		return errDamaged
	}
	return nil
}

// AwaitEnds waits until none of the tunnels is open, or ctx is done.
func (c *Crowd) AwaitEnds(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.tunnels) > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d tunnels are open: %w", len(c.tunnels), context.Cause(ctx))
		}
		c.changed.Wait()
	}
	return nil
}

// Add has the summary be of both.
func (s Summary) Add(o Summary) Summary {
	refused := make(map[int]int)
	for _, part := range []map[int]int{s.Refused, o.Refused} {
		for status, n := range part {
			refused[status] += n
		}
	}
	return Summary{
		Opened: s.Opened + o.Opened, Refused: refused, Closed: s.Closed + o.Closed, Broken: s.Broken + o.Broken,
		Messages: s.Messages + o.Messages, Bytes: s.Bytes + o.Bytes, Damaged: s.Damaged + o.Damaged,
		Worst: max(s.Worst, o.Worst), Errors: append(s.Errors[:len(s.Errors):len(s.Errors)], o.Errors...),
	}
}

// Mark forgets the longest wait so far.
func (c *Crowd) Mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.summary.Worst = 0
}

// Summary returns what the clients have seen so far.
func (c *Crowd) Summary() Summary {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.summary.Add(Summary{}) // a copy
}

// Close ends in order what is open, and returns what was seen.
func (c *Crowd) Close() Summary {
	c.mu.Lock()
	var open []*tunnel
	for t := range c.tunnels {
		open = append(open, t)
	}
	c.mu.Unlock()
	for _, t := range open {
		close(t.stop)
	}
	for _, t := range open {
		<-t.done
	}
	c.cancel()
	return c.Summary()
}
