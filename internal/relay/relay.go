// Package relay is a relay: where it is, how requests get there, and how far they
// got when they failed.
package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/http1"
)

// Relay is a target with connections of its own.
type Relay struct {
	Target

	// SetsDeadlines: read deadlines of connections, also of those of WebSockets, are not
	// ours to set. The transport's read_timeout sets its own; and where renegotiation is
	// allowed a read may be in the middle of a handshake, which a deadline would end for good.
	SetsDeadlines bool

	// handshakes opens a connection of its own for each WebSocket: none comes from
	// a pool, so none turns out to be stale, and http.Transport has no reason to
	// send a handshake again.
	handshakes *http.Transport
	// requests keeps connections alive for everything else.
	requests http.RoundTripper
	// pool is for those requests that are small; nil where Caddy's transport is to
	// do something that it does not.
	pool *http1.Pool

	release func() // called when the configuration has no use for the transport any more

	namesClients bool   // by the transport's proxy_protocol
	serverName   string // the transport's tls_server_name

	notAfter atomic.Int64 // Unix time; 0 before the first connection over TLS
}

// Options are a relay's besides those of Caddy's transport.
type Options struct {
	// Timeout bounds a lookup of the name, and a TLS handshake, unless the transport has
	// bounds of its own.
	Timeout time.Duration
	// FailDuration is how long an address that failed is tried after all others of its
	// name; 0 for not at all.
	FailDuration time.Duration
	// Transport tells transports apart: relays that connect to the same name with the
	// same one share what is known of its addresses.
	Transport string
	// Served is told what has failed where the relay was reached all the same: an address,
	// when another one worked, or DNS, when its last good answer served. It must not block.
	Served func(stage Stage, text string)
	// Release is called when the transport is not used any more; nil for nothing. Over
	// HTTP/3 requests under way use it, also when the relay is closed.
	Release func()
}

// New returns a relay that connects as t says. t is the relay's from now on, and must
// not be shared: its TLS configuration and connections are this target's.
func New(target Target, t *reverseproxy.HTTPTransport, options Options) *Relay {
	r := &Relay{Target: target, requests: t, SetsDeadlines: t.ReadTimeout > 0 || renegotiates(t), namesClients: t.ProxyProtocol != ""}
	if r.release = options.Release; r.release == nil {
		r.release = func() {}
	}
	if slices.Contains(t.Versions, "3") {
		use := newLastUse(r.release)
		r.requests, r.release = sharedDials{inUse{t, use}}, sync.OnceFunc(use.endLater)
	}
	rt := t.Transport
	if t.Compression == nil {
		// What a body is encoded as is between the client and the relay.
		rt.DisableCompression = true
	}
	if t.ProxyProtocol != "" {
		// A connection that names one client must not carry another's requests.
		rt.DisableKeepAlives = true
	}
	if rt.DisableKeepAlives && !slices.Contains(t.Versions, "3") { // HTTP/3 names nobody, and keeps what it has
		r.requests = newSeparateConns(rt)
	}
	if rt.TLSHandshakeTimeout == 0 {
		// http.Transport goes on connecting when the request that wanted the
		// connection has given up. By the extra second it is always the request's own
		// limit that is exceeded, and named as the reason.
		rt.TLSHandshakeTimeout = options.Timeout + time.Second
	}
	// A connection over HTTP/2 that has gone silent would get all requests that come from
	// then on. It is asked for a sign of life, and closed if there is none. The question may
	// be behind some megabytes of an upload, so there is more time for the answer.
	rt.HTTP2 = &http.HTTP2Config{SendPingTimeout: options.Timeout, PingTimeout: 3 * options.Timeout}
	if rt.TLSClientConfig == nil {
		rt.TLSClientConfig = new(tls.Config)
	}
	r.serverName = rt.TLSClientConfig.ServerName
	// A TLS handshake that builds on an earlier one spares both sides the
	// certificates (RFC 8446, section 2.2).
	rt.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	rt.OnProxyConnectResponse = onProxyConnect

	lookups := lookupsOf(t, options)
	tlsTo := func(protocols []string) func(context.Context, net.Conn, string) (net.Conn, error) {
		return overTLS(rt.TLSClientConfig, rt.TLSHandshakeTimeout, protocols, func(asked string, state tls.ConnectionState) {
			if r.isRelay(asked) {
				r.noteCertificate(state)
			}
		})
	}
	plain := &dialer{rt.DialContext, nil, lookups}
	secure := &dialer{rt.DialContext, tlsTo([]string{"http/1.1"}), lookups}
	if poolable(t, &r.Target) {
		r.pool = newPool(rt, &r.Target, plain.dial, secure.dial)
	}
	r.handshakes = handshakeTransport(rt, untilReady(plain.dial, r.isRelay), untilReady(secure.dial, r.isRelay))
	connect := rt.DialContext
	if target.TLS || rt.Protocols == nil || !rt.Protocols.UnencryptedHTTP2() {
		connect = keepingResponses(connect)
	}
	plain = &dialer{connect, nil, lookups}
	secure = &dialer{connect, tlsTo(rt.TLSClientConfig.NextProtos), lookups}
	rt.DialContext, rt.DialTLSContext = untilReady(plain.dial, r.isRelay), untilReady(secure.dial, r.isRelay)
	for _, t := range []*http.Transport{rt, r.handshakes} {
		// Only what goes through a forward proxy's tunnel is secured by http.Transport.
		t.TLSClientConfig.VerifyConnection = r.noteCertificate
	}
	return r
}

// renegotiates reports whether a relay may ask for another handshake (TLS 1.2 and before).
func renegotiates(t *reverseproxy.HTTPTransport) bool {
	config := t.Transport.TLSClientConfig
	return config != nil && config.Renegotiation != tls.RenegotiateNever
}

// noteCertificate takes down until when the relay's certificate is valid. It never fails.
func (r *Relay) noteCertificate(state tls.ConnectionState) error {
	if len(state.PeerCertificates) > 0 {
		r.notAfter.Store(state.PeerCertificates[0].NotAfter.Unix())
	}
	return nil
}

// isRelay reports whether address is the relay's, and not that of a forward proxy.
func (r *Relay) isRelay(address string) bool {
	return address == r.address()
}

// CertificateEnd returns until when the certificate is valid that the relay has shown
// last. It is zero where it has shown none.
func (r *Relay) CertificateEnd() time.Time {
	if seconds := r.notAfter.Load(); seconds != 0 {
		return time.Unix(seconds, 0)
	}
	return time.Time{}
}

func handshakeTransport(t *http.Transport, dial, dialTLS dialFunc) *http.Transport {
	h := t.Clone()
	h.DialContext, h.DialTLSContext = dial, dialTLS
	h.DisableKeepAlives = true
	h.Protocols = new(http.Protocols)
	h.Protocols.SetHTTP1(true)
	h.ForceAttemptHTTP2 = false
	h.TLSNextProto = nil
	return h
}

// onProxyConnect is for forward proxies, whose refusals http.Transport returns as
// bare text.
func onProxyConnect(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
	if response.StatusCode == http.StatusOK {
		return nil
	}
	return &dialError{StageConnect, fmt.Errorf("the forward proxy responded with status %d", response.StatusCode)}
}

// RoundTrip sends a request the cheapest way that it can take. Its errors are of
// type *Error. A request whose bytes may have reached the relay is never sent again.
func (r *Relay) RoundTrip(req *http.Request) (*http.Response, error) {
	req = r.naming(req)
	if r.pool != nil && http1.Takes(req) {
		response, err := r.pool.RoundTrip(req)
		return r.checked(req, response, err, true) // what fails before is a dialError
	}
	var connected atomic.Bool // also set for a request that has been given up
	own := new(connecting)
	ctx := context.WithValue(owned(req.Context()), connectingKey{}, own)
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: own.secured,
		GotConn: func(info httptrace.GotConnInfo) {
			connected.Store(true)
			ready(info.Conn)
			keepResponses(info.Conn)
		},
	}))
	response, err := r.requests.RoundTrip(once(req))
	return r.checked(req, response, err, connected.Load())
}

// once makes the body of req one that cannot be rewound, whatever its method and fields.
// Transports send a request without a body again when a kept connection has failed,
// those for HTTP/2 also when the relay refuses it.
func once(req *http.Request) *http.Request {
	switch body := req.Body.(type) {
	case *http1.Body:
		req.Body = body.Copy() // a transport may read on when it has returned
	default:
		if body == http.NoBody {
			withEmptyBody(req)
		}
	}
	return req
}

// withEmptyBody gives req a body that happens to be empty. Its length counts as unknown,
// so without "identity" it would go in chunks over HTTP/1.1. Where a length is expected
// (RFC 9110, section 8.6) it is written in small letters, for http.Transport leaves out
// its usual spelling. HTTP/2 needs neither, and drops both.
func withEmptyBody(req *http.Request) {
	req.Body = io.NopCloser(emptyBody{})
	req.TransferEncoding = []string{"identity"}
	switch req.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		req.Header["content-length"] = []string{"0"}
	}
}

// emptyBody is a reader of no bytes.
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }

// Handshake sends the handshake of a WebSocket, and returns the connection that it
// went over, which is the caller's if the relay has responded with 101. Otherwise it
// is like RoundTrip.
func (r *Relay) Handshake(req *http.Request) (*http.Response, net.Conn, error) {
	var conn net.Conn
	req = r.naming(req)
	req = req.WithContext(httptrace.WithClientTrace(owned(req.Context()), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			conn = info.Conn
			ready(conn)
		},
	}))
	response, err := r.handshakes.RoundTrip(req)
	response, err = r.checked(req, response, err, conn != nil)
	return response, conn, err
}

// naming returns req with the name to verify, if tls_server_name has placeholders. They
// are replaced now: an attempt to connect may go on when the request is over, and they may
// read what other handlers write by then.
func (r *Relay) naming(req *http.Request) *http.Request {
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok || !strings.Contains(r.serverName, "{") {
		return req
	}
	return req.WithContext(context.WithValue(req.Context(), serverNameKey{}, repl.ReplaceAll(r.serverName, "")))
}

// checked refuses a status with which no response can be passed on. connected is for
// failure.
func (r *Relay) checked(req *http.Request, response *http.Response, err error, connected bool) (*http.Response, error) {
	if err != nil {
		return nil, r.failure(req.Context(), err, connected)
	}
	if response.StatusCode < 100 || response.StatusCode > 999 { // HTTP/2 can carry any number
		response.Body.Close()
		return nil, r.Invalid(fmt.Sprintf("responded with status %03d", response.StatusCode), nil)
	}
	return response, nil
}

// Close closes idle connections and keeps none from now on. Requests under way go on.
func (r *Relay) Close() {
	if r.pool != nil {
		r.pool.Close()
	}
	r.release()
}

// poolable reports whether the pool may stand in for t: it speaks HTTP/1.1 over
// connections that it dials itself.
func poolable(t *reverseproxy.HTTPTransport, target *Target) bool {
	rt := t.Transport
	return http1.Supported &&
		slices.Contains(t.Versions, "1.1") && !slices.Contains(t.Versions, "h2c") &&
		!rt.DisableKeepAlives && rt.DisableCompression &&
		rt.MaxConnsPerHost == 0 && rt.MaxIdleConns == 0 &&
		rt.DialTLSContext == nil &&
		rt.ResponseHeaderTimeout == 0 && t.ReadTimeout == 0 && t.WriteTimeout == 0 &&
		!proxied(rt, target)
}

// proxied reports whether the relay is reached through a forward proxy.
func proxied(t *http.Transport, target *Target) bool {
	if t.Proxy == nil {
		return false
	}
	vars := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, make(map[string]any))
	req, err := http.NewRequestWithContext(vars, http.MethodGet, target.scheme()+"://"+target.Host+"/", nil)
	if err != nil {
		return true
	}
	proxy, err := t.Proxy(req)
	return proxy != nil || err != nil
}

func newPool(t *http.Transport, target *Target, dial, dialTLS dialFunc) *http1.Pool {
	maxHeader := t.MaxResponseHeaderBytes
	if maxHeader == 0 {
		maxHeader = http.DefaultMaxHeaderBytes
	}
	if target.TLS {
		dial = dialTLS
	}
	address := target.address()
	return &http1.Pool{
		Dial:        func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", address) },
		MaxIdle:     t.MaxIdleConnsPerHost,
		IdleTimeout: t.IdleConnTimeout,
		MaxHeader:   maxHeader,
	}
}

// varProxyProtocol is the name under which Caddy's transport looks for what
// reverse_proxy tells it (reverseproxy/hosts.go). It is not exported; a test notices
// a change.
const varProxyProtocol = "reverse_proxy.proxy_protocol_info"

// WithClient returns ctx for a request of client, which the transport's proxy_protocol
// names. The variables in it are its own: an attempt to connect may still read them when
// the handlers of the request have gone on to write theirs.
func (r *Relay) WithClient(ctx context.Context, client netip.AddrPort) context.Context {
	vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	if !ok || !r.namesClients {
		return ctx
	}
	vars = maps.Clone(vars)
	vars[varProxyProtocol] = reverseproxy.ProxyProtocolInfo{AddrPort: client}
	return context.WithValue(ctx, caddyhttp.VarsCtxKey, vars)
}
