package watchrtcproxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/exchange"
)

// transports are the ways to the relay, all made from Caddy's transport.
type transports struct {
	// handshakes opens a connection of its own for each WebSocket: none comes from
	// a pool, so none turns out to be stale, and http.Transport has no reason to
	// send a handshake again.
	handshakes http.RoundTripper
	// exchanges keeps connections alive for everything else.
	exchanges http.RoundTripper
	// pool is for those exchanges that are small; nil where Caddy's transport is to
	// do something that it does not.
	pool *exchange.Pool
	// rearmed: the transport's read_timeout sets read deadlines of its own.
	rearmed bool
}

func newTransports(t *reverseproxy.HTTPTransport, up *upstream, timeout time.Duration) transports {
	if t.Compression == nil {
		// What a body is encoded as is between the client and the relay.
		t.Transport.DisableCompression = true
	}
	if t.ProxyProtocol != "" {
		// A connection that names one client must not carry another's requests.
		t.Transport.DisableKeepAlives = true
	}
	if t.Transport.TLSHandshakeTimeout == 0 {
		// http.Transport goes on connecting when the request that wanted the
		// connection has given up.
		t.Transport.TLSHandshakeTimeout = timeout
	}
	resumeSessions(t.Transport)
	if t.Transport.DialTLSContext != nil && t.Transport.TLSClientConfig.ServerName == "" {
		// Where Caddy's transport does TLS itself, it does not look at the URL.
		t.Transport.TLSClientConfig.ServerName = up.hostname()
	}
	ts := transports{
		handshakes: handshakeTransport(t.Transport),
		exchanges:  t,
		rearmed:    t.ReadTimeout > 0,
	}
	if poolable(t, up) {
		ts.pool = newPool(t.Transport, up)
	}
	return ts
}

func handshakeTransport(t *http.Transport) *http.Transport {
	h := t.Clone()
	h.DisableKeepAlives = true
	h.Protocols = new(http.Protocols)
	h.Protocols.SetHTTP1(true)
	h.ForceAttemptHTTP2 = false
	h.TLSNextProto = nil
	return h
}

// roundTrip sends an exchange the cheapest way that it can take.
func (ts *transports) roundTrip(req *http.Request) (*http.Response, error) {
	if ts.pool != nil && exchange.Takes(req) {
		return ts.pool.RoundTrip(req)
	}
	return ts.exchanges.RoundTrip(req)
}

func (ts *transports) close() {
	if ts.pool != nil {
		ts.pool.Close()
	}
}

// poolable reports whether the pool may stand in for t: it speaks HTTP/1.1 over
// connections that it dials itself.
func poolable(t *reverseproxy.HTTPTransport, up *upstream) bool {
	rt := t.Transport
	return exchange.Supported &&
		slices.Contains(t.Versions, "1.1") && !slices.Contains(t.Versions, "h2c") &&
		!rt.DisableKeepAlives && rt.DisableCompression &&
		rt.MaxConnsPerHost == 0 && rt.MaxIdleConns == 0 &&
		rt.DialTLSContext == nil &&
		rt.ResponseHeaderTimeout == 0 && t.ReadTimeout == 0 && t.WriteTimeout == 0 &&
		!proxied(rt, up)
}

// proxied reports whether the relay is reached through a forward proxy.
func proxied(t *http.Transport, up *upstream) bool {
	if t.Proxy == nil {
		return false
	}
	vars := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, make(map[string]any))
	req, err := http.NewRequestWithContext(vars, http.MethodGet, up.scheme()+"://"+up.host+"/", nil)
	if err != nil {
		return true
	}
	proxy, err := t.Proxy(req)
	return proxy != nil || err != nil
}

func newPool(t *http.Transport, up *upstream) *exchange.Pool {
	maxHeader := t.MaxResponseHeaderBytes
	if maxHeader == 0 {
		maxHeader = http.DefaultMaxHeaderBytes
	}
	return &exchange.Pool{
		Dial:        poolDialer(t, up),
		MaxIdle:     t.MaxIdleConnsPerHost,
		IdleTimeout: t.IdleConnTimeout,
		MaxHeader:   maxHeader,
	}
}

// poolDialer connects as http.Transport does, for HTTP/1.1.
func poolDialer(t *http.Transport, up *upstream) func(context.Context) (net.Conn, error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		return t.DialContext(ctx, "tcp", up.address())
	}
	if !up.tls {
		return dial
	}
	config := t.TLSClientConfig.Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName = up.hostname()
	}
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		if t.TLSHandshakeTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, t.TLSHandshakeTimeout)
			defer cancel()
		}
		tlsConn := tls.Client(conn, config)
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return tlsConn, nil
	}
}

// resumeSessions lets a TLS handshake with the relay build on an earlier one,
// which spares both sides the certificates (RFC 8446, section 2.2).
func resumeSessions(t *http.Transport) {
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = new(tls.Config)
	}
	t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
}

// Names under which Caddy's transport looks for what reverse_proxy tells it
// (reverseproxy/hosts.go). They are not exported; tests notice a change.
const (
	varProxyProtocol = "reverse_proxy.proxy_protocol_info"
	varHTTP1Only     = "reverse_proxy.tls_h1_only"
)

// setTransportVars tells the transport what its proxy_protocol and its own TLS
// dialer need to know.
func (h *Handler) setTransportVars(r *http.Request, http1Only bool) {
	client := reverseproxy.ProxyProtocolInfo{AddrPort: h.rules.ClientAddrPort(r)}
	caddyhttp.SetVar(r.Context(), varProxyProtocol, client)
	caddyhttp.SetVar(r.Context(), varHTTP1Only, http1Only)
}
