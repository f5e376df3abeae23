package watchrtcproxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/coder/websocket"
)

// patience is how long a test waits for what must happen. Nothing depends on how
// long it takes.
const patience = 30 * time.Second

// testContext ends with the test, or when it has taken too long.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// proxy is a Caddy with the handler under test. Caddy is one per process, so there
// is one at a time.
type proxy struct {
	network string // tcp, or unix where a test says so
	addr    string // 127.0.0.1:port
	plain   bool   // without TLS
	logs    *logSink
}

// site is a Caddyfile in pieces. In each {roots} is the file of the certificate
// that proxies and relays of these tests have.
type site struct {
	global string // global options
	server string // in servers { }
	body   string // of the site, which serves every host name
	log    string // format of the log; json if empty
	plain  bool   // HTTP without TLS
}

// mountOn is a site with the handler at /websocket, so configured that it reaches
// relay.
func mountOn(relay, options string) site {
	return site{body: directiveFor("/websocket", relay, options)}
}

// directiveFor writes a watchrtc_proxy directive. Its tunnels end with the
// configuration, without delay, unless options say otherwise.
func directiveFor(matcher, relay, options string) string {
	if !strings.Contains(options, "drain_window") {
		options += "\ndrain_window 0"
	}
	if !strings.Contains(options, "transport http") && !strings.HasPrefix(relay, "ws://") {
		options += "\ntransport http {\ntls_trust_pool file {roots}\n}"
	}
	return fmt.Sprintf("watchrtc_proxy %s %s {\n%s\n}", matcher, relay, options)
}

func (s site) caddyfile(port int) string {
	scheme, certificate := "https", "tls {roots} {key}"
	if s.plain {
		scheme, certificate = "http", ""
	}
	text := fmt.Sprintf(`{
		admin off
		auto_https off
		persist_config off
		storage file_system {storage}
		default_bind 127.0.0.1
		grace_period 5s
		log default {
			output watchrtc_test
			format %s
			level DEBUG
		}
		servers {
			%s
		}
		%s
	}
	%s://:%d {
		%s
		%s
	}`, cmp.Or(s.log, "json"), s.server, s.global, scheme, port, certificate, s.body)
	return strings.NewReplacer("{roots}", certFile, "{key}", keyFile, "{storage}", scratch).Replace(text)
}

// start runs a site until the test ends, and then sees to it that no tunnel is
// left.
func start(t *testing.T, s site) *proxy {
	t.Helper()
	p := startConfig(t, func(port int) []byte { return adapt(t, s.caddyfile(port)) })
	p.plain = s.plain
	return p
}

// startJSON runs a site with one route made of handlers, which are JSON objects
// separated by commas.
func startJSON(t *testing.T, handlers string) *proxy {
	t.Helper()
	return startConfig(t, func(port int) []byte {
		config := adapt(t, site{body: "respond replaced 500"}.caddyfile(port))
		before, _, ok := bytes.Cut(config, []byte(`{"body":"replaced"`))
		if !ok {
			t.Fatalf("no handler in %s", config)
		}
		_, after, _ := bytes.Cut(config[len(before)+1:], []byte("}"))
		return slices.Concat(before, []byte(handlers), after)
	})
}

func startConfig(t *testing.T, config func(port int) []byte) *proxy {
	t.Helper()
	for range 10 {
		port := freePort(t)
		p := &proxy{network: "tcp", addr: fmt.Sprintf("127.0.0.1:%d", port), logs: newLogSink()}
		err := caddy.Load(config(port), true)
		if err == nil {
			t.Cleanup(func() { stop(t) })
			return p
		}
		if !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
	}
	t.Fatal("no port stays free")
	return nil
}

func adapt(t *testing.T, text string) []byte {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			t.Logf("adapting: %s", warning.Message)
		}
	}
	return adapted
}

func stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	tunnels.Wait()
}

// freePort returns a port that was free for both TCP and UDP a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().(*net.TCPAddr)
		pc, err := net.ListenPacket("udp", addr.String())
		ln.Close()
		if err == nil {
			pc.Close()
			return addr.Port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// clientTLS returns what a client needs to trust the test's certificate.
func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: protocols}
}

// client is one HTTP/1.1 connection to the proxy, written by hand.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader

	asked string // the latest request line
}

// dial connects to the proxy. preamble, such as a PROXY protocol header, goes
// before TLS.
func (p *proxy) dial(t *testing.T, preamble string) *client {
	t.Helper()
	conn, err := net.Dial(p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(preamble)); err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, conn: conn}
	if !p.plain {
		tlsConn := tls.Client(conn, clientTLS("http/1.1"))
		if err := tlsConn.Handshake(); err != nil {
			t.Fatal(err)
		}
		c.conn = tlsConn
	}
	c.r = bufio.NewReader(c.conn)
	return c
}

func (c *client) write(s string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// request writes the head of a request. fields are lines such as "Name: value";
// a Host is added where they have none.
func (c *client) request(method, target string, fields ...string) {
	c.t.Helper()
	c.asked = method + " " + target + " HTTP/1.1"
	head := c.asked + "\r\n"
	if !hasField(fields, "Host") {
		head += "Host: proxy.example\r\n"
	}
	for _, field := range fields {
		head += field + "\r\n"
	}
	c.write(head + "\r\n")
}

func hasField(fields []string, name string) bool {
	for _, field := range fields {
		if len(field) > len(name) && strings.EqualFold(field[:len(name)+1], name+":") {
			return true
		}
	}
	return false
}

// answer reads the head of the answer to a request with method.
func (c *client) answer(method string) *http.Response {
	c.t.Helper()
	answer, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// close ends the connection without the manners of TLS.
func (c *client) close() { rawest(c.conn).Close() }

// closeWrite says that the client has nothing more to say.
func (c *client) closeWrite() {
	c.t.Helper()
	if err := closeWrite(c.conn); err != nil {
		c.t.Fatal(err)
	}
}

func closeWrite(conn net.Conn) error { return conn.(interface{ CloseWrite() error }).CloseWrite() }

// reset ends a connection the abnormal way.
func reset(conn net.Conn) {
	tcp := rawest(conn).(*net.TCPConn)
	tcp.SetLinger(0)
	tcp.Close()
}

func rawest(conn net.Conn) net.Conn {
	if tlsConn, ok := conn.(*tls.Conn); ok {
		return tlsConn.NetConn()
	}
	return conn
}

// sampleKey and sampleAccept are the ones of RFC 6455, section 1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

var handshakeFields = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + sampleKey,
}

// handshake opens a WebSocket with further fields.
func (c *client) handshake(target string, fields ...string) *http.Response {
	c.t.Helper()
	c.request("GET", target, append(fields, handshakeFields...)...)
	return c.answer("GET")
}

// kinds of traffic; most rules hold for both.
var kinds = []string{"WebSocket", "POST"}

// ask sends a request of one kind, and the answer's status must be the one that
// means that the relay has seen it.
func (c *client) ask(kind, target string, fields ...string) *http.Response {
	c.t.Helper()
	if kind == "WebSocket" {
		answer := c.handshake(target, fields...)
		c.wantStatus(answer, http.StatusSwitchingProtocols)
		return answer
	}
	c.request("POST", target, append(fields, "Content-Length: 2")...)
	c.write("{}")
	answer := c.answer("POST")
	c.wantStatus(answer, http.StatusOK)
	return answer
}

func (c *client) wantStatus(answer *http.Response, want int) {
	c.t.Helper()
	if answer.StatusCode != want {
		c.t.Fatalf("%s: status %d, want %d; header %v", c.asked, answer.StatusCode, want, answer.Header)
	}
}

// httpClient speaks HTTP/1.1 to the proxy under any host name.
func (p *proxy) httpClient(t *testing.T) *http.Client {
	transport := &http.Transport{
		TLSClientConfig:    clientTLS(),
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// url returns an address of the proxy for httpClient.
func (p *proxy) url(target string) string { return "https://" + p.addr + target }

// webSocket opens a WebSocket with a client that nobody here wrote.
func (p *proxy) webSocket(t *testing.T, target string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(testContext(t), p.url(target), &websocket.DialOptions{
		HTTPClient:   p.httpClient(t),
		Subprotocols: []string{"2.0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(-1)
	return ws
}
