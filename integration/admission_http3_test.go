package integration_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const overQUIC = "HTTP3"

// withQUIC has a site offer HTTP/3 too.
func withQUIC(s site) site {
	s.server += "\nprotocols h3"
	return s
}

// openBy opens a WebSocket by any protocol, and takes any response.
func (p *proxy) openBy(t *testing.T, protocol, target string, fields ...string) *tunnel {
	t.Helper()
	if protocol != overQUIC {
		return p.open(t, protocol, target, "", fields...)
	}
	p.settle(t)
	transport := &http3.Transport{TLSClientConfig: authority.ClientConfig("localhost")}
	t.Cleanup(func() { transport.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	body, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	r := request(t, http.MethodConnect, p.url(target), body, append([]string{"Sec-WebSocket-Version: 13"}, fields...)...)
	r.Proto = "websocket"
	response, err := transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	br := bufio.NewReader(response.Body)
	return &tunnel{response, w, br, wstest.NewReader(br, false), w.Close, func() { cancel(); w.CloseWithError(context.Canceled) }}
}

// settle is for the race detector, which sees no causality through UDP: it takes a lock
// that each QUIC handshake takes too.
func (p *proxy) settle(t *testing.T) {
	t.Helper()
	addr, err := caddy.ParseNetworkAddress("udp/" + p.addr)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := addr.ListenQUIC(t.Context(), 0, net.ListenConfig{}, authority.ClientConfig("localhost"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ln.Close(), ln.Close()); err != nil { // the listener stays, and its use takes two
		t.Fatal(err)
	}
}

// statusOf is the status of a WebSocket that is open.
func statusOf(protocol string) int {
	if strings.HasPrefix(protocol, "HTTP1") {
		return http.StatusSwitchingProtocols
	}
	return http.StatusOK
}
