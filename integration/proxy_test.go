package integration_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// patience is how long a client waits for a response. Nothing depends on how long one
// takes.
const patience = 10 * time.Second

// secret is the key that clients of these tests have. No log may hold it.
const secret = "5ecret-0f-the-client"

// site is a Caddyfile in pieces.
type site struct {
	global string // global options
	server string // in servers { }
	body   string // of the site, which serves every host name
	bind   string // of the site; loopback if empty
	plain  bool   // HTTP without TLS
	self   string // a word in body that stands for the site's own URL; none if empty
}

// mount is a site with the handler at /websocket, so configured that it reaches relay.
// Options are lines of the directive.
func mount(relay string, options ...string) site {
	return site{body: directive("/websocket", relay, options...)}
}

// directive writes a watchrtc_proxy. Its tunnels end with the configuration, without
// delay, and it trusts the relays of these tests, unless options say otherwise.
func directive(matcher, relay string, options ...string) string {
	lines := strings.Join(options, "\n")
	if !strings.Contains(lines, "drain_window") {
		lines += "\ndrain_window 0"
	}
	if !strings.Contains(lines, "transport http") {
		lines += "\n" + transport("")
	}
	return fmt.Sprintf("watchrtc_proxy %s %s {\n%s\n}", matcher, relay, lines)
}

// transport writes a transport that trusts the relays of these tests.
func transport(options string) string {
	return "transport http {\ntls_trust_pool file " + rootsFile + "\n" + options + "\n}"
}

func (s site) caddyfile(port int) string {
	scheme, certificate := "https", "tls "+proxyFiles.Cert+" "+proxyFiles.Key
	if s.plain {
		scheme, certificate = "http", ""
	}
	if s.self != "" {
		s.body = strings.ReplaceAll(s.body, s.self, fmt.Sprintf("wss://127.0.0.1:%d", port))
	}
	return fmt.Sprintf(`{
		admin off
		auto_https off
		persist_config off
		storage file_system %s
		default_bind %s
		grace_period 5s
		log default {
			output watchrtc_integration
			format json
		}
		servers {
			protocols h1 h2
			%s
		}
		%s
	}
	%s://:%d {
		%s
		%s
	}`, scratch, cmp.Or(s.bind, "127.0.0.1"), s.server, s.global, scheme, port, certificate, s.body)
}

// proxy is a Caddy with the module in it. Caddy is one per process, so there is one at
// a time.
type proxy struct {
	network, addr string
	port          int
	plain         bool
	logs          *logs
}

// start runs a site until the test ends.
func start(t *testing.T, s site) *proxy {
	t.Helper()
	for range 10 {
		port := freePort(t)
		p := &proxy{network: "tcp", addr: fmt.Sprintf("127.0.0.1:%d", port), port: port, plain: s.plain, logs: newLogs()}
		err := load(s, port)
		if err == nil {
			t.Cleanup(func() { p.stop(t) })
			return p
		}
		if !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
	}
	t.Fatal("no port stays free")
	return nil
}

// load has Caddy run a site, in place of what it runs.
func load(s site, port int) error {
	text := s.caddyfile(port)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return fmt.Errorf("%w in\n%s", err, text)
	}
	return caddy.Load(adapted, true)
}

// reload replaces the running site on the same port.
func (p *proxy) reload(t *testing.T, s site) {
	t.Helper()
	if err := load(s, p.port); err != nil {
		t.Fatal(err)
	}
}

func (p *proxy) stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	p.logs.check(t)
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// url returns an address of the proxy. target begins with a slash.
func (p *proxy) url(target string) string {
	scheme := "https://"
	if p.plain {
		scheme = "http://"
	}
	return scheme + p.addr + target
}

// dial connects to the proxy to speak HTTP/1.1 by hand.
func (p *proxy) dial(t *testing.T) *wstest.Conn {
	t.Helper()
	return p.dialAfter(t, "")
}

// dialAfter is dial with a preamble before TLS.
func (p *proxy) dialAfter(t *testing.T, preamble string) *wstest.Conn {
	t.Helper()
	d := wstest.Dialer{Preamble: preamble}
	if !p.plain {
		d.TLS = authority.ClientConfig("localhost", "http/1.1")
	}
	c, err := d.Dial(t.Context(), p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Drop() })
	return c
}

// The protocols of clients.
const (
	http1  = "HTTP1"
	http2x = "HTTP2"
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

// tunnel is a client's end of a WebSocket, over HTTP/1.1 or over a stream of HTTP/2.
type tunnel struct {
	*http.Response
	w      io.Writer
	r      *bufio.Reader
	frames *wstest.Reader

	closeWrite func() error
	reset      func()
}

// target is where clients of these tests open WebSockets.
const target = "/websocket?apiKey=" + secret

// open opens a WebSocket with further fields and takes any response. early goes out
// before there is one.
func (p *proxy) open(t *testing.T, protocol, target, early string, fields ...string) *tunnel {
	t.Helper()
	if protocol == http2x {
		return p.openStream(t, target, early, fields)
	}
	c := p.dial(t)
	response, err := c.HandshakeWith(early, target, fields...)
	if response == nil {
		t.Fatal(err)
	}
	if response.StatusCode == http.StatusSwitchingProtocols && err != nil {
		t.Fatal(err)
	}
	return &tunnel{response, c, c.R, c.Frames, c.CloseWrite, func() { c.Reset() }}
}

func (p *proxy) openStream(t *testing.T, target, early string, fields []string) *tunnel {
	t.Helper()
	raw, err := tls.Dial(p.network, p.addr, authority.ClientConfig("localhost", "h2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	//lint:ignore SA1019 the connection is what its successor takes too, but that sends no :protocol
	conn, err := new(http2.Transport).NewClientConn(raw)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	body, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	r := request(t, http.MethodConnect, p.url(target), body, append([]string{"Sec-WebSocket-Version: 13"}, fields...)...)
	r.Header[":protocol"] = []string{"websocket"}
	if early != "" {
		go io.WriteString(w, early) // blocks until the stream takes it
	}
	response, err := conn.RoundTrip(r.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	br := bufio.NewReader(response.Body)
	reset := func() { cancel(); w.CloseWithError(context.Canceled) }
	return &tunnel{response, w, br, wstest.NewReader(br, false), w.Close, reset}
}

// send writes frames as a client.
func (c *tunnel) send(t *testing.T, frames ...wstest.Frame) {
	t.Helper()
	if _, err := c.w.Write(wstest.Encode(true, frames...)); err != nil {
		t.Fatal(err)
	}
}

// write writes bytes that are no frames.
func (c *tunnel) write(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c.w, text); err != nil {
		t.Fatal(err)
	}
}

// opened is the status of a WebSocket that is open.
func opened(protocol string) int {
	if protocol == http2x {
		return http.StatusOK // RFC 8441, section 5
	}
	return http.StatusSwitchingProtocols
}

// connect opens a WebSocket to a relay that accepts it, and returns both ends.
func connect(t *testing.T, p *proxy, relay *wstest.Relay, protocol string) (*tunnel, *wstest.Conn) {
	t.Helper()
	accepted := make(chan *wstest.Conn, 1)
	go func() {
		c := <-relay.Conns
		if _, err := c.AcceptHandshake(); err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	client := p.open(t, protocol, target, "")
	wantStatus(t, client.Response, opened(protocol))
	return client, await(t, accepted, "connection to the relay")
}

// expect reads what must come next.
func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("%q, then %v, want %.80q", got[:n], err, want)
	}
	if string(got) != want {
		t.Fatalf("%.80q, want %.80q", got, want)
	}
}

// expectEnd reads the end, which must be in order.
func expectEnd(t *testing.T, r io.Reader) {
	t.Helper()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("%.80q, %v, want the end", rest, err)
	}
}
