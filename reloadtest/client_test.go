//go:build unix

package reloadtest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// patience is for what happens in milliseconds on a machine with nothing else to do.
// No test depends on it unless something is broken.
const patience = time.Minute

var ids atomic.Uint64

// clientTLS is the clients' side of TLS.
func clientTLS() *tls.Config {
	return &tls.Config{
		RootCAs:          testCA.Pool,
		ServerName:       "localhost",
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
	}
}

// refused is a response other than 101.
type refused struct {
	status     int
	retryAfter string
}

func (r refused) Error() string {
	return fmt.Sprintf("status %d, Retry-After %q", r.status, r.retryAfter)
}

// shake opens a WebSocket on conn. options are added to the query.
func shake(conn net.Conn, id uint64, options string) (*peer, error) {
	c := wstest.NewConn(conn, true)
	response, err := c.Handshake(fmt.Sprintf("/websocket?apiKey=k&sessionId=%d%s", id, options), "Host: localhost")
	if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
		return nil, refused{response.StatusCode, response.Header.Get("Retry-After")}
	}
	if err != nil {
		return nil, err
	}
	return newPeer(c, c.R, id, true), nil
}

// dial opens a WebSocket to addr. A reload closes the old listener only after it
// is over: what has reached that by then is reset or closed without a response, and
// tries again.
func dial(addr, options string) (p *peer, err error) {
	for range 20 {
		if p, err = dialOnce(addr, options); err == nil || !dropped(err) {
			return p, err
		}
	}
	return nil, err
}

// dropped reports whether a listener or server that went away took a connection
// along.
func dropped(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func dialOnce(addr, options string) (*peer, error) {
	conn, err := tls.Dial("tcp", addr, clientTLS())
	if err != nil {
		return nil, err
	}
	p, err := shake(conn, ids.Add(1), options)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

func ignore([]byte) error { return nil }

// open opens n WebSockets, a few at a time, and reads from each.
func open(t testing.TB, addr string, n int, options string) []*peer {
	t.Helper()
	peers := make([]*peer, n)
	errs := make(chan error, n)
	var next atomic.Int64
	var dialing sync.WaitGroup
	for range 8 {
		dialing.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				p, err := dial(addr, options)
				if err != nil {
					errs <- fmt.Errorf("tunnel %d: %w", i, err)
					return
				}
				peers[i] = p
				go p.run(ignore)
			}
		})
	}
	dialing.Wait()
	t.Cleanup(func() {
		for _, p := range peers {
			if p != nil {
				p.conn.Close()
			}
		}
	})
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
	return peers
}

// sizes of the messages in turn: the SDK's small ones, its statistics, and some
// that take several TLS records.
var sizes = []int{80, 400, 4096, 120, 300, 4096, 90, 40000}

// traffic sends messages through tunnels, one after another, in one to three
// frames each.
type traffic struct {
	testing.TB
	quit    chan struct{}
	done    sync.WaitGroup
	once    sync.Once
	sent    atomic.Int64
	flowing chan struct{} // of capacity 1: more has been sent
}

func startTraffic(t testing.TB, peers []*peer, pace time.Duration) *traffic {
	t.Helper()
	tr := &traffic{TB: t, quit: make(chan struct{}), flowing: make(chan struct{}, 1)}
	tr.done.Go(func() { tr.run(peers, pace) })
	t.Cleanup(tr.stop)
	return tr
}

func (tr *traffic) run(peers []*peer, pace time.Duration) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-tr.quit:
			return
		case <-ticker.C:
		}
		p := peers[i%len(peers)]
		if !p.writing.TryLock() {
			continue // it is in the middle of a message
		}
		// A tunnel that was drained cannot be written to; whoever asks how it
		// ended will see whether it should have been.
		_ = p.sendLocked(sizes[int(p.id+p.sent)%len(sizes)], 1+i%3)
		p.writing.Unlock()
		tr.sent.Add(1)
		select {
		case tr.flowing <- struct{}{}:
		default:
		}
	}
}

// await returns when n more messages have been sent.
func (tr *traffic) await(n int64) {
	for want := tr.sent.Load() + n; tr.sent.Load() < want; {
		<-tr.flowing
	}
}

func (tr *traffic) stop() {
	tr.once.Do(func() { close(tr.quit) })
	tr.done.Wait()
}

// sendAll has each tunnel carry one message there and back.
func sendAll(t testing.TB, peers []*peer) {
	t.Helper()
	for _, p := range peers {
		if err := p.send(80, 1); err != nil {
			t.Fatalf("tunnel %d: %v", p.id, err)
		}
	}
	for _, p := range peers {
		if err := p.awaitAll(patience); err != nil {
			t.Fatal(err)
		}
	}
}
