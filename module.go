// Package watchrtcproxy is a Caddy module that carries watchRTC traffic: the
// WebSockets of the SDK, and the HTTPS requests it falls back to, from the
// operator's own domain to the vendor's relay.
package watchrtcproxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// Defaults of the options.
const (
	// defaultHandshakeTimeout is below the 15 s after which the SDK gives up, so
	// that it learns why.
	defaultHandshakeTimeout = 10 * time.Second
	defaultIdleTimeout      = 10 * time.Minute
	defaultDrainWindow      = 20 * time.Second
	defaultFailDuration     = 10 * time.Second
	defaultMaxBodySize      = 16 << 20
)

// Values below these can only be mistakes, such as a unit that is missing.
const (
	leastIdleTimeout      = 30 * time.Second
	leastHandshakeTimeout = 100 * time.Millisecond
	leastDrainWindow      = time.Millisecond
	leastFailDuration     = 100 * time.Millisecond
	leastMaxBodySize      = 64 << 10
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler carries watchRTC traffic to a relay: WebSockets (over HTTP/1.1, HTTP/2
// and HTTP/3) and the HTTPS requests that the SDK falls back to.
//
// The relay sees the clients' addresses in X-Forwarded-For, and none of the
// operator's cookies, credentials or tracing; the browser gets none of the relay's
// cookies or site-wide policies. The relay responds first: a client gets its 101 only
// after the relay's, and every other response of the relay as it is. A request that
// has been through this process already gets 508.
//
// Established WebSockets belong to the process, not to the configuration. They
// survive reloads as long as some configuration names their upstream.
type Handler struct {
	// Where to carry traffic to: `production` (wss://watchrtc.testrtc.com),
	// `staging` (wss://watchrtc-staging2.testrtc.com), or a URL with the scheme
	// wss, https, ws or http, a host, and optionally a port and a base path. wss
	// and https mean the same, as do ws and http. Global placeholders such as
	// `{env.RELAY}` are replaced when the configuration is loaded. One upstream is
	// supported. Default: `["production"]`.
	Upstreams []string `json:"upstreams,omitempty"`

	// The path under which the proxy is mounted, such as `/websocket`. It is
	// stripped before a request is forwarded. A request that is neither this path
	// nor below it goes to the next handler. Like Caddy's path matcher it does
	// not tell upper from lower case. Default: none, the path is forwarded whole.
	PathPrefix string `json:"path_prefix,omitempty"`

	// How to connect to the relay: Caddy's own `http` transport with all its
	// options. TLS follows the upstream's scheme, and need not be enabled here.
	// Requests are not compressed unless `compression` says so. WebSockets
	// always use HTTP/1.1. Default: `{"protocol": "http"}`.
	TransportRaw json.RawMessage `json:"transport,omitempty" caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`

	// Addresses and CIDR ranges of peers whose X-Forwarded-For,
	// X-Forwarded-Proto, X-Forwarded-Host and Forwarded are trusted;
	// `private_ranges` stands for all private and loopback ranges. Default: what
	// the server's `trusted_proxies` says, and where that says nothing,
	// `private_ranges` and unix sockets.
	TrustedProxies []string `json:"trusted_proxies,omitempty"`

	// Whether to cut client addresses to their network before they leave: each
	// address in the outgoing X-Forwarded-For, in the transport's PROXY protocol
	// header and in this module's logs keeps its first 24 bits (IPv4) or 48 bits
	// (IPv6). Forwarded is not sent at all then. Default: false.
	MaskClientIP bool `json:"mask_client_ip,omitempty"`

	// Changes to the headers of requests (toward the relay) and responses (toward
	// the client), as in Caddy's `headers` handler. They come after this module's
	// own rules and can undo them. `{http.watchrtc_proxy.header.*}` holds the
	// fields of the relay's response.
	Headers *headers.Handler `json:"headers,omitempty"`

	// The origins of pages whose requests are taken: exact ones such as
	// `https://app.example`, those of any subdomain as `https://*.example.com`,
	// `null`, and `none` for requests without an Origin, which are made by what is
	// no browser. All others get 403. Global placeholders are replaced. Default: any.
	Origins []string `json:"origins,omitempty"`

	// The keys with which WebSockets may be opened, and the configuration of the
	// SDK's network test be fetched, as the SDK sends them: without `staging:` and
	// the like. `tokens` takes requests with a token instead of a key. All others,
	// and those whose query can be read in more than one way, get 403. Global
	// placeholders are replaced. Default: any.
	APIKeys []string `json:"api_keys,omitempty"`

	// How WebSockets are refused for good, by `origins` and `api_keys`: `status` is
	// 403, after which the SDK tries again for ever; `greeting` is a WebSocket with
	// an error for its first message, after which it stops. Default: `status`.
	RefuseWith string `json:"refuse_with,omitempty"`

	// How many WebSockets the process may hold, of all handlers, with those whose
	// handshake is under way, before this handler takes no more: they get 503 and a
	// Retry-After. Default: half of the limit of open files less 1,000, which is
	// also what 0 means.
	MaxTunnels int `json:"max_tunnels,omitempty"`

	// The same for one client, which is an IPv4 address or an IPv6 network of 64
	// bits: 429 and a Retry-After. A peer without an address has no such limit. The
	// client's address is what trusted peers say; where the server's
	// `trusted_proxies` say who those are, it must have `trusted_proxies_strict`.
	// Default: 0, which is no limit.
	MaxTunnelsPerClient int `json:"max_tunnels_per_client,omitempty"`

	// The largest request body that is forwarded, in bytes. A larger one gets
	// 413. It does not bound WebSocket messages. Less than 65536 (64 KiB) is taken
	// with a warning: the SDK's requests may be larger. Default: 16777216 (16 MiB),
	// which is also what 0 means.
	MaxBodySize int64 `json:"max_body_size,omitempty"`

	// How long the relay may take to respond: from the beginning of a WebSocket's
	// handshake to the relay's 101, and for other requests to connect, and again
	// from the end of the request to the head of the response. Then the client gets
	// 504. A bare number is in nanoseconds. Default: 10s, which is also what 0 means;
	// it should stay below the 15 s after which the SDK gives up.
	HandshakeTimeout caddy.Duration `json:"handshake_timeout,omitempty"`

	// How long a WebSocket may carry no byte in either direction before it is
	// closed, with a Close frame 1001 each way. A bare number is in nanoseconds.
	// Less than 30s is taken with a warning: silence of that length is normal.
	// 0 means forever. Default: 10m.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// Over how long a time WebSockets are closed one after another when their
	// upstream has left the configuration or the process stops, so that their
	// clients do not come back all at once. Each gets a Close frame 1001 and up to
	// 5 s to answer it. A bare number is in nanoseconds. 0 closes all at once.
	// Default: 20s.
	DrainWindow *caddy.Duration `json:"drain_window,omitempty"`

	// For how long an address of the relay to which connecting, or TLS, has failed is
	// tried after all others that DNS gives for its name. If it works in the meantime,
	// it is back in its place. A bare number is in nanoseconds. 0 means that failures
	// are not remembered. Default: 10s.
	FailDuration *caddy.Duration `json:"fail_duration,omitempty"`

	upstream  *upstream
	rules     *forward.Rules
	admission admission

	relays      []*relay.Relay // one, for now
	errorRoutes errorRoutes

	server *server
	lease  *tunnel.Lease
	gone   *atomic.Bool // its configuration is not used any more
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.watchrtc_proxy",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets defaults, resolves the upstream and prepares the transport.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.gone = new(atomic.Bool)
	if caddy.Exiting() {
		// It would open the listeners again, for clients that are being sent away.
		return errors.New("the process is stopping and takes no new configuration")
	}
	defaultUpstream := len(h.Upstreams) == 0
	h.setDefaults()
	var err error
	if h.upstream, err = resolveUpstream(h.Upstreams); err != nil {
		return err
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if h.rules, err = forward.New(h.TrustedProxies, h.MaskClientIP, server); err != nil {
		return err
	}
	if err := h.checkPlace(ctx, server); err != nil {
		return err
	}
	if err := h.provisionAdmission(); err != nil {
		return err
	}
	if err := h.provisionTransport(ctx); err != nil {
		return err
	}
	if err := h.provisionHeaders(ctx); err != nil {
		return err
	}
	if err := registerMetrics(ctx, h.MaxTunnels); err != nil {
		return err
	}
	h.errorRoutes = newErrorRoutes(ctx, server)
	window := time.Duration(*h.DrainWindow)
	h.server = serverOf(ctx, window)
	h.lease = tunnels.Lease(h.upstream.name, window, active(ctx))
	h.logLoaded(ctx.Logger(), defaultUpstream)
	logEngine(ctx.Logger())
	return nil
}

// logLoaded says what was loaded, and warns of values that can only be mistakes. A
// variable that is not set, as in `watchrtc_proxy /websocket {$RELAY}`, leaves no
// trace but the default upstream.
func (h *Handler) logLoaded(log *zap.Logger, defaultUpstream bool) {
	log.Info("relaying",
		zap.String("mount", cmp.Or(h.PathPrefix, "/")),
		zap.String("upstream", h.upstream.name),
		zap.Bool("default_upstream", defaultUpstream),
		zap.Int("max_tunnels", h.MaxTunnels))

	const unit = "in JSON a duration without a unit is in nanoseconds"
	for _, option := range []struct {
		name            string
		value, sensible time.Duration
		consequence     string
	}{
		{"idle_timeout", time.Duration(*h.IdleTimeout), leastIdleTimeout, "closes WebSockets that are merely silent"},
		{"handshake_timeout", h.handshakeTimeout(), leastHandshakeTimeout, "leaves a relay on the Internet no time to respond"},
		{"drain_window", time.Duration(*h.DrainWindow), leastDrainWindow, "closes all WebSockets at once"},
		{"fail_duration", time.Duration(*h.FailDuration), leastFailDuration, "has each handshake try addresses that are dead"},
	} {
		if 0 < option.value && option.value < option.sensible {
			log.Warn(fmt.Sprintf("%s is below %s, which %s; %s", option.name, option.sensible, option.consequence, unit),
				zap.String(option.name, option.value.String()))
		}
	}
	if 0 < h.MaxBodySize && h.MaxBodySize < leastMaxBodySize {
		log.Warn("max_body_size is below 64KiB, which refuses requests that the SDK may make; in JSON it is in bytes",
			zap.Int64("max_body_size", h.MaxBodySize))
	}
	h.logAdmission(log)
}

func (h *Handler) setDefaults() {
	if len(h.Upstreams) == 0 {
		h.Upstreams = []string{presetProduction}
	}
	if h.MaxBodySize == 0 {
		h.MaxBodySize = defaultMaxBodySize
	}
	if h.HandshakeTimeout == 0 {
		h.HandshakeTimeout = caddy.Duration(defaultHandshakeTimeout)
	}
	h.IdleTimeout = orDefault(h.IdleTimeout, defaultIdleTimeout)
	h.DrainWindow = orDefault(h.DrainWindow, defaultDrainWindow)
	h.FailDuration = orDefault(h.FailDuration, defaultFailDuration)
}

func orDefault(d *caddy.Duration, value time.Duration) *caddy.Duration {
	if d == nil {
		d = new(caddy.Duration(value))
	}
	return d
}

// provisionTransport loads Caddy's transport and derives the ways to the relay from it.
func (h *Handler) provisionTransport(ctx caddy.Context) error {
	if len(h.TransportRaw) == 0 {
		h.TransportRaw = json.RawMessage(`{"protocol":"http"}`)
	}
	identity := sha256.Sum256(h.TransportRaw) // of which loading leaves nothing
	// Its context is its own: Caddy would clean it up with the configuration, while requests
	// are under way.
	own, release := caddy.NewContext(ctx)
	defer func() {
		if len(h.relays) == 0 {
			release()
		}
	}()
	mod, err := own.LoadModule(h, "TransportRaw")
	if err != nil {
		return fmt.Errorf("loading transport: %w", err)
	}
	transport, ok := mod.(*reverseproxy.HTTPTransport)
	if !ok {
		return fmt.Errorf("transport %T is not supported; the only one accepted is http", mod)
	}
	if transport.TLS != nil && !h.upstream.tls {
		return fmt.Errorf("upstream %q: its scheme means plain text, but the transport has TLS options; want %q, or a transport without them",
			h.upstream.name, "wss"+strings.TrimPrefix(h.upstream.name, "ws"))
	}
	target := relay.Target{TLS: h.upstream.tls, Host: h.upstream.host, Base: h.upstream.base, Name: h.upstream.name}
	h.relays = []*relay.Relay{relay.New(target, transport, relay.Options{
		Timeout:      h.handshakeTimeout(),
		FailDuration: time.Duration(*h.FailDuration),
		Transport:    string(identity[:]),
		Release:      release,
		Served: func(stage relay.Stage, text string) {
			faults.add(fault{upstream: target.Name, stage: stage, text: text, served: true})
		},
	})}
	return nil
}

func (h *Handler) provisionHeaders(ctx caddy.Context) error {
	if h.Headers == nil {
		return nil
	}
	if err := h.Headers.Provision(ctx); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	return nil
}

// Validate rejects values that have no sensible default.
func (h *Handler) Validate() error {
	for _, check := range []struct {
		bad bool
		msg string
	}{
		{h.PathPrefix != "" && !validMount(h.PathPrefix),
			fmt.Sprintf("path_prefix %q: want a path such as /websocket, without a trailing slash", h.PathPrefix)},
		{h.MaxTunnels < 0, fmt.Sprintf("max_tunnels %d: want a count above 0", h.MaxTunnels)},
		{h.MaxTunnelsPerClient < 0, fmt.Sprintf("max_tunnels_per_client %d: want a count above 0", h.MaxTunnelsPerClient)},
		{h.MaxBodySize < 0, fmt.Sprintf("max_body_size %d: want a number of bytes above 0", h.MaxBodySize)},
		{h.HandshakeTimeout < 0, fmt.Sprintf("handshake_timeout %s: want a duration above 0", time.Duration(h.HandshakeTimeout))},
		{*h.IdleTimeout < 0, fmt.Sprintf("idle_timeout %s: want a duration, or 0 for no limit", time.Duration(*h.IdleTimeout))},
		{*h.DrainWindow < 0, fmt.Sprintf("drain_window %s: want a duration, or 0 to close all at once", time.Duration(*h.DrainWindow))},
		{*h.FailDuration < 0, fmt.Sprintf("fail_duration %s: want a duration, or 0 to remember no failures", time.Duration(*h.FailDuration))},
	} {
		if check.bad {
			return errors.New(check.msg)
		}
	}
	if h.Headers != nil {
		return h.Headers.Validate()
	}
	return nil
}

// Cleanup releases the upstream. If no other configuration uses it, its tunnels are
// drained.
func (h *Handler) Cleanup() error {
	h.gone.Store(true)
	for _, r := range h.relays {
		r.Close()
	}
	stopping.noteExit()
	if h.lease != nil {
		h.lease.Release()
		stopping.released()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
