package integration_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// testContext ends with the test, or when it has taken too long.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// conn is one connection to the proxy, on which a test speaks HTTP/1.1 by hand. The
// methods here fail the test where those of wstest.Conn return an error.
type conn struct {
	*wstest.Conn
	t *testing.T

	asked string // the latest request line
}

// dial connects to the proxy. A preamble, such as a PROXY protocol header, goes out
// before TLS begins.
func (p *proxy) dial(t *testing.T, preamble ...string) *conn {
	t.Helper()
	c, err := p.tryDial(t, preamble...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *proxy) tryDial(t *testing.T, preamble ...string) (*conn, error) {
	d := wstest.Dialer{Preamble: strings.Join(preamble, "")}
	if !p.plain {
		d.TLS = authority.ClientConfig("localhost", "http/1.1")
	}
	c, err := d.Dial(t.Context(), p.network, p.addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Drop() })
	return &conn{Conn: c, t: t}, nil
}

func (c *conn) write(text string) {
	c.t.Helper()
	if err := c.WriteText(text); err != nil {
		c.t.Fatal(err)
	}
}

// request writes the head of a request. fields are lines such as "Name: value"; a Host
// is added where they have none.
func (c *conn) request(method, target string, fields ...string) {
	c.t.Helper()
	c.asked = method + " " + target
	if err := c.WriteRequest(method, target, fields...); err != nil {
		c.t.Fatal(err)
	}
}

// response reads the head of the response to a request with method.
func (c *conn) response(method string) *http.Response {
	c.t.Helper()
	response, err := c.ReadResponse(method)
	if err != nil {
		c.t.Fatal(err)
	}
	return response
}

// handshake asks for a WebSocket with further fields, and returns any response. The key
// is wstest.SampleKey.
func (c *conn) handshake(target string, fields ...string) *http.Response {
	c.t.Helper()
	c.request("GET", target, append(fields, wstest.HandshakeFields(wstest.SampleKey)...)...)
	return c.response("GET")
}

// kinds of traffic; most rules hold for both.
var kinds = []string{"WebSocket", "POST"}

// try sends a request of one kind, and returns any response.
func (c *conn) try(kind, target string, fields ...string) *http.Response {
	c.t.Helper()
	if kind == "WebSocket" {
		return c.handshake(target, fields...)
	}
	c.request("POST", target, append(fields, "Content-Length: 2")...)
	c.write("{}")
	return c.response("POST")
}

// ask is try of a request that the relay must see: the response's status is the one that
// means so.
func (c *conn) ask(kind, target string, fields ...string) *http.Response {
	c.t.Helper()
	response := c.try(kind, target, fields...)
	if kind == "WebSocket" {
		c.wantStatus(response, http.StatusSwitchingProtocols)
	} else {
		c.wantStatus(response, http.StatusOK)
	}
	return response
}

func (c *conn) wantStatus(response *http.Response, want int) {
	c.t.Helper()
	if response.StatusCode != want {
		c.t.Fatalf("%s: status %d, want %d; header %v", c.asked, response.StatusCode, want, response.Header)
	}
}

// close ends the connection without the manners of TLS.
func (c *conn) close() { c.Drop() }

// closeWrite says that the client has nothing more to say.
func (c *conn) closeWrite() {
	c.t.Helper()
	if err := c.CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
}

// The protocols of clients.
const (
	http1  = "HTTP1"
	http2x = "HTTP2"
	http3x = "HTTP3"
)

// overHTTP runs a test with a client of each protocol.
func overHTTP(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, protocol := range []string{http1, http2x} {
		t.Run(protocol, func(t *testing.T) { test(t, protocol) })
	}
}

// client speaks a protocol to the proxy.
func (p *proxy) client(t *testing.T, protocol string) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(protocol == http1)
	protocols.SetHTTP2(protocol == http2x && !p.plain)
	protocols.SetUnencryptedHTTP2(protocol == http2x && p.plain)
	var conns conns
	transport := &http.Transport{
		TLSClientConfig:    authority.ClientConfig("localhost"),
		Protocols:          protocols,
		DisableCompression: true,
		DialContext:        conns.dial(p),
	}
	t.Cleanup(conns.close)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// webSocket opens a WebSocket with a client that nobody here wrote.
func (p *proxy) webSocket(t *testing.T, target string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(testContext(t), p.url(target), &websocket.DialOptions{
		HTTPClient:   p.client(t, http1),
		Subprotocols: []string{"2.0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	return ws
}

// echo sends a message and wants it back.
func echo(t *testing.T, ws *websocket.Conn, message []byte) {
	t.Helper()
	ctx := testContext(t)
	if err := ws.Write(ctx, websocket.MessageText, message); err != nil {
		t.Fatal(err)
	}
	if _, back, err := ws.Read(ctx); err != nil || !bytes.Equal(back, message) {
		t.Fatalf("%q came back as %q (%v)", message, back, err)
	}
}

// conns are the connections of a client. A test that breaks a request off leaves one
// that is not idle, and Caddy would wait for it when it stops.
type conns struct {
	mu   sync.Mutex // protects what follows
	open []net.Conn
}

func (c *conns) dial(p *proxy) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, p.network, p.addr)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.open = append(c.open, conn)
		}
		return conn, err
	}
}

func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		conn.Close()
	}
}

// request makes a request with field lines such as "Name: value".
func request(t *testing.T, method, url string, body io.Reader, fields ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		if name == "Host" {
			r.Host = strings.TrimSpace(value)
			continue
		}
		r.Header.Add(name, strings.TrimSpace(value))
	}
	return r
}

// do sends a request and returns the response's head; the body is closed when the test
// ends.
func do(t *testing.T, client *http.Client, r *http.Request) *http.Response {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

// ask sends a request and reads the whole response.
func ask(t *testing.T, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	response := do(t, client, r)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func wantStatus(t *testing.T, response *http.Response, want int) {
	t.Helper()
	if response.StatusCode != want {
		t.Fatalf("status %d, want %d; header %v", response.StatusCode, want, response.Header)
	}
}

func wantBody(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("body %.80q (%d bytes), want %.80q (%d bytes)", got, len(got), want, len(want))
	}
}

// wantField checks all values of a field, joined; empty stands for its absence.
func wantField(t *testing.T, header http.Header, name, want string) {
	t.Helper()
	if got := strings.Join(header[http.CanonicalHeaderKey(name)], ", "); got != want {
		t.Errorf("%s is %q, want %q", name, got, want)
	}
}

// wantLine is wantField of a field that must be one line, or none if want is empty.
// what tells which request or response it is about.
func wantLine(t *testing.T, what string, header http.Header, name, want string) {
	t.Helper()
	if want == "" {
		wantLines(t, what, header, name)
		return
	}
	wantLines(t, what, header, name, want)
}

// wantLines checks the lines of a field, one by one.
func wantLines(t *testing.T, what string, header http.Header, name string, want ...string) {
	t.Helper()
	if got := header[http.CanonicalHeaderKey(name)]; !slices.Equal(got, want) {
		t.Errorf("%s: %s: %q, want %q", what, name, got, want)
	}
}

// await receives what must come.
func await[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// awaitTrue waits for what nothing tells of.
func awaitTrue(t testing.TB, what string, happened func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !happened(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
	}
}
