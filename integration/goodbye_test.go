package integration_test

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestGoodbyeWithTimeouts has a client that ends in order. The relay sees that by
// TLS's close_notify, without which the end is a truncation (RFC 8446, section 6.1),
// whichever options the transport has.
func TestGoodbyeWithTimeouts(t *testing.T) {
	for _, option := range []string{"", "write_timeout 1m", "read_timeout 1m"} {
		t.Run(option, func(t *testing.T) {
			const alert = 21 // TLS 1.2 shows the type of each record
			last := make(chan byte, 1)
			relay := rawRelayWith(t, nil, func(c *wstest.Conn) {
				config := leaf.ServerConfig("http/1.1")
				config.MaxVersion = tls.VersionTLS12
				records := &recorded{Conn: c.Raw()}
				secure := wstest.NewConn(tls.Server(records, config), false)
				if _, err := secure.AcceptHandshakeWith(""); err != nil {
					t.Error(err)
				}
				if _, err := secure.ReadToEnd(); err != nil {
					t.Error(err)
				}
				last <- records.last()
			})
			p := start(t, mount("wss://"+relay.Addr, transport(option)))
			s := p.open(t, http1, "/websocket", "")
			s.send(t, wstest.Message("hello"), wstest.CloseFrame(1000))
			s.closeWrite()
			if got := await(t, last, "end"); got != alert {
				t.Errorf("the last record is of type %d: no close_notify came", got)
			}
		})
	}
}

// recorded keeps what is read from a TLS connection, encrypted.
type recorded struct {
	net.Conn
	mu  sync.Mutex // protects what follows
	got []byte
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, p[:n]...)
	return n, err
}

// last returns the type of the last record.
func (r *recorded) last() (kind byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := r.got; len(rest) >= 5; {
		kind = rest[0]
		rest = rest[min(5+(int(rest[3])<<8|int(rest[4])), len(rest)):]
	}
	return kind
}
