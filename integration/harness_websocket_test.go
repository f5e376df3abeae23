package integration_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// tunnel is a client's end of a WebSocket, over HTTP/1.1 or over a stream of HTTP/2 or
// HTTP/3.
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

// overStreams runs a test over HTTP/2 and over HTTP/3, where a WebSocket is a stream.
func overStreams(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, protocol := range []string{http2x, http3x} {
		t.Run(protocol, func(t *testing.T) { test(t, protocol) })
	}
}

// open opens a WebSocket with further fields and takes any response. early goes out
// before there is one. On a stream a field without a value is left out.
func (p *proxy) open(t *testing.T, protocol, target, early string, fields ...string) *tunnel {
	t.Helper()
	switch protocol {
	case http2x:
		return p.openStream(t, p.http2Conn(t), target, early, fields...)
	case http3x:
		p.settleQUIC(t)
		return p.openStream(t, http3Transport(t, nil), target, early, fields...)
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

// http2Conn is a connection whose streams can be WebSockets.
func (p *proxy) http2Conn(t *testing.T) http.RoundTripper {
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
	return conn
}

func http3Transport(t *testing.T, config *quic.Config) http.RoundTripper {
	transport := &http3.Transport{TLSClientConfig: authority.ClientConfig("localhost"), QUICConfig: config}
	t.Cleanup(func() { transport.Close() })
	return transport
}

// settleQUIC is for the race detector. Caddy may begin to serve QUIC before its tls
// app has started. No client comes by then, but causality through UDP is nothing
// that the detector sees; so have it see a lock that each QUIC handshake takes too.
func (p *proxy) settleQUIC(t *testing.T) {
	t.Helper()
	addr, err := caddy.ParseNetworkAddress("udp/" + p.addr)
	if err != nil {
		t.Fatal(err)
	}
	// The listener is there already, and stays when this use of it ends, which takes
	// two calls of Close.
	ln, err := addr.ListenQUIC(testContext(t), 0, net.ListenConfig{}, authority.ClientConfig("localhost"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ln.Close(), ln.Close()); err != nil {
		t.Fatal(err)
	}
}

// openStream opens a WebSocket by extended CONNECT (RFC 8441, RFC 9220).
func (p *proxy) openStream(t *testing.T, transport http.RoundTripper, target, early string, fields ...string) *tunnel {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	t.Cleanup(cancel)
	body, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, p.url(target), body)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := transport.(*http3.Transport); ok {
		r.Proto = "websocket"
	} else {
		r.Header[":protocol"] = []string{"websocket"}
	}
	r.Header.Set("Sec-WebSocket-Version", "13")
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		if r.Header.Set(name, strings.TrimSpace(value)); value == "" {
			r.Header.Del(name)
		}
	}
	if length, err := strconv.ParseInt(r.Header.Get("Content-Length"), 10, 64); err == nil {
		r.ContentLength = length // the field alone is not sent
	}
	if early != "" {
		go io.WriteString(w, early) // blocks until the stream takes it
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	br := bufio.NewReader(response.Body)
	reset := func() {
		cancel()
		w.CloseWithError(context.Canceled) // the client may wait for its body
	}
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

// wire returns frames as they go over the wire. Those of a client are masked.
func wire(masked bool, frames ...wstest.Frame) string {
	return string(wstest.Encode(masked, frames...))
}

// binaryMessage returns an unfragmented message of size bytes that mean nothing.
func binaryMessage(size int) wstest.Frame {
	return wstest.Frame{Fin: true, Opcode: wstest.Binary, Payload: randomBytes(size)}
}

// randomBytes returns n bytes that are the same in each run.
func randomBytes(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

// wantClose reads frames up to a Close frame and checks its code.
func wantClose(t *testing.T, frames *wstest.Reader, want int) {
	t.Helper()
	f, err := frames.Next()
	if err != nil || f.Opcode != wstest.Close || f.Code() != want {
		t.Errorf("%s, %v, want a Close frame with %d", f, err, want)
	}
}

// opened is the status of a WebSocket that is open.
func opened(protocol string) int {
	if protocol == http1 {
		return http.StatusSwitchingProtocols
	}
	return http.StatusOK // RFC 8441, section 5
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
