package integration_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// upload sends a body that the pool does not take, and returns the status of the response.
func (p *proxy) upload(t *testing.T, target string, size int) int {
	t.Helper()
	c := p.dial(t)
	defer c.close()
	c.request("POST", target, "Content-Length: "+strconv.Itoa(size))
	go io.Copy(c, strings.NewReader(strings.Repeat("x", size)))
	return c.response("POST").StatusCode
}

// TestHTTP2RelayResetsBehindForwardProxy is TestHTTP2RelayResets behind a forward proxy,
// where http.Transport does TLS, and so agrees on HTTP/2, by itself.
func TestHTTP2RelayResetsBehindForwardProxy(t *testing.T) {
	first := make(chan bool, 1)
	first <- true
	addr := wstest.NewRelay(t, nil, func(c *wstest.Conn) { // the forward proxy and, behind it, the relay
		if _, err := http.ReadRequest(c.R); err != nil {
			return
		}
		c.WriteText("HTTP/1.1 200 OK\r\n\r\n")
		secure := wstest.NewConn(tls.Server(c.Raw(), relayTLSWithHTTP2()), false)
		r, err := newH2Relay(secure)
		if err != nil {
			return
		}
		select {
		case <-first:
			if err := r.await(http2.FrameData); err != nil {
				t.Error(err)
			}
			r.exhaust()
			secure.Reset()
		default:
			r.respondToAll()
		}
	}).Addr
	p := start(t, mount("wss://localhost:1", "handshake_timeout 5s", transport("network_proxy url http://"+addr)))
	if status := p.upload(t, "/websocket/trace", 12_000_000); status != http.StatusBadGateway {
		t.Errorf("the upload that is reset: status %d", status)
	}
	for range 2 {
		if status := p.upload(t, "/websocket/trace", 12_000_000); status != http.StatusOK {
			t.Errorf("an upload after that: status %d", status)
		}
	}
}

// resetAfterWrite is a connection that is reset after its first write.
type resetAfterWrite struct{ *wstest.Conn }

func (c resetAfterWrite) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.Reset()
	return n, err
}

// TestRelayResetsHandshake has a relay that resets its connection when it has sent its
// part of the TLS handshake, so that writing the client's part fails. That is a 502 at once,
// whichever way the request goes.
func TestRelayResetsHandshake(t *testing.T) {
	addr := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
		tls.Server(resetAfterWrite{c}, relayTLSWithHTTP2()).Handshake()
	}).Addr
	p := start(t, mount("wss://"+addr, "handshake_timeout 2s"))
	for _, size := range []int{0, 2, 100_000} {
		for range 3 {
			if status := p.upload(t, "/websocket/trace", size); status != http.StatusBadGateway {
				t.Errorf("%d bytes: status %d", size, status)
			}
		}
	}
}

// TestEarlyRefusalBehindForwardProxy has a relay behind a forward proxy that refuses an
// upload, and both close their connection without reading the rest. The client gets the
// refusal.
func TestEarlyRefusalBehindForwardProxy(t *testing.T) {
	addr := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
		if _, err := http.ReadRequest(c.R); err != nil {
			return
		}
		c.WriteText("HTTP/1.1 200 OK\r\n\r\n")
		secure := wstest.NewConn(tls.Server(c.Raw(), leaf.ServerConfig("http/1.1")), false)
		secure.ReadHead()
		secure.WriteResponse("413 Content Too Large", "no", "Connection: close")
		secure.Close() // what is unread has it reset
	}).Addr
	p := start(t, mount("wss://localhost:1", "handshake_timeout 5s", transport("network_proxy url http://"+addr)))
	for range 20 {
		if status := p.upload(t, "/websocket/trace", 4_000_000); status != http.StatusRequestEntityTooLarge {
			t.Errorf("status %d", status)
		}
	}
}
