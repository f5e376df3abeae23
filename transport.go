package watchrtcproxy

import (
	"crypto/tls"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// newTransports derives two transports from Caddy's.
//
// handshakes opens a connection of its own for each WebSocket: none comes from a
// pool, so none turns out to be stale, and http.Transport has no reason to send a
// handshake again. exchanges keeps connections alive.
func newTransports(t *reverseproxy.HTTPTransport) (handshakes, exchanges http.RoundTripper) {
	if t.Compression == nil {
		// What a body is encoded as is between the client and the relay.
		t.Transport.DisableCompression = true
	}
	if t.ProxyProtocol != "" {
		// A connection that names one client must not carry another's requests.
		t.Transport.DisableKeepAlives = true
	}
	resumeSessions(t.Transport)

	h := t.Transport.Clone()
	h.DisableKeepAlives = true
	h.Protocols = new(http.Protocols)
	h.Protocols.SetHTTP1(true)
	h.ForceAttemptHTTP2 = false
	h.TLSNextProto = nil
	return h, t
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
func setTransportVars(r *http.Request, http1Only bool) {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if client := peerAddr(ip); client.IsValid() && (err != nil || client != addr.Addr()) {
		addr = netip.AddrPortFrom(client, 0)
	}
	caddyhttp.SetVar(r.Context(), varProxyProtocol, reverseproxy.ProxyProtocolInfo{AddrPort: addr})
	caddyhttp.SetVar(r.Context(), varHTTP1Only, http1Only)
}
