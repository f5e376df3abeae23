package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
)

// stranger is a loopback address that no proxy of a test trusts.
const stranger = "127.0.0.9"

// client makes requests from an address of its own.
type client struct {
	*http.Client
	header http.Header // of each request
}

// newClient returns a client at ip that trusts ca.
func newClient(t *testing.T, ca *pki.CA, ip string) *client {
	t.Helper()
	return newClientOf(t, ca.Pool, ip)
}

func newClientOf(t *testing.T, roots *x509.CertPool, ip string) *client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	transport := &http.Transport{
		DialContext:     dialer.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{Client: &http.Client{Transport: transport}, header: make(http.Header)}
}

// resolve has the client take name for a loopback address.
func (c *client) resolve(t *testing.T, name string) {
	t.Helper()
	transport := c.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if host, port, _ := net.SplitHostPort(addr); host == name {
			addr = "127.0.0.1:" + port
		}
		return dial(ctx, network, addr)
	}
}

// dial opens a WebSocket as the SDK does, and reads the relay's greeting.
func (c *client) dial(t *testing.T, url string) *websocket.Conn {
	t.Helper()
	ws, err := c.tryDial(t, url)
	if err != nil {
		t.Fatal(err)
	}
	if _, greeting, err := ws.Read(soon(t)); err != nil || !strings.Contains(string(greeting), "connectionId") {
		t.Fatalf("greeting %q, %v", greeting, err)
	}
	return ws
}

func (c *client) tryDial(t *testing.T, url string) (*websocket.Conn, error) {
	t.Helper()
	ws, _, err := websocket.Dial(soon(t), url+"?apiKey=k", &websocket.DialOptions{
		HTTPClient:   c.Client,
		HTTPHeader:   c.header.Clone(),
		Subprotocols: []string{"2.0"},
	})
	if err == nil {
		t.Cleanup(func() { _ = ws.CloseNow() }) // it may be closed already
	}
	return ws, err
}

// post sends what the SDK falls back to, and returns the status.
func (c *client) post(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(soon(t), http.MethodPost, url, strings.NewReader(`{"data":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = c.header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}
