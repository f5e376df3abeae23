package devrelay

import (
	"math"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("watchrtc_dev_relay", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("watchrtc_dev_relay", httpcaddyfile.Before, "reverse_proxy")
}

// Handler is a stand-in for the watchRTC relay, for trying out a proxy without one.
// It responds to the SDK's WebSockets and HTTPS requests, and shows what it received
// at `/`: connections, forwarded client addresses, the latest messages. API keys and
// tokens are not shown. It keeps everything in memory. Handlers with the same options
// are one relay, which a reload of the configuration leaves alone; changed options
// make a new one. Not for production.
type Handler struct {
	// The largest WebSocket message and request body accepted, in bytes. A larger
	// message closes its connection with code 1009, a larger body gets 413.
	// Default: 1048576 (1 MiB).
	MaxMessageSize int64 `json:"max_message_size,omitempty"`

	// How many WebSocket connections may be open at once; the next gets 503.
	// Default: 500.
	MaxConnections int `json:"max_connections,omitempty"`

	relay sharedRelay
}

// relays holds the relays of all handlers by their options, so that connections
// outlive reloads as they do in the proxy that they come through.
var relays = caddy.NewUsagePool()

// sharedRelay is closed once no handler uses it.
type sharedRelay struct{ *Relay }

// Destruct implements caddy.Destructor.
func (s sharedRelay) Destruct() error { return s.Close() }

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.watchrtc_dev_relay",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the relay, or joins the one that has these options.
func (h *Handler) Provision(caddy.Context) error {
	relay, _, err := relays.LoadOrNew(h.config(), func() (caddy.Destructor, error) {
		return sharedRelay{New(h.config())}, nil
	})
	if err != nil {
		return err
	}
	h.relay = relay.(sharedRelay)
	return nil
}

// Cleanup closes the relay's connections, unless another handler has joined it.
func (h *Handler) Cleanup() error {
	if h.relay.Relay == nil {
		return nil
	}
	_, err := relays.Delete(h.config())
	return err
}

func (h *Handler) config() Config {
	return Config{MaxMessageSize: h.MaxMessageSize, MaxConnections: h.MaxConnections}.withDefaults()
}

// ServeHTTP responds to every request; nothing comes after a relay.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	h.relay.ServeHTTP(w, r)
	return nil
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	err := handler.UnmarshalCaddyfile(h.Dispenser)
	return handler, err
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens:
//
//	watchrtc_dev_relay [<matcher>] {
//		max_message_size <size>
//		max_connections  <count>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		var err error
		switch option := d.Val(); option {
		case "max_message_size":
			h.MaxMessageSize, err = parseSize(d)
		case "max_connections":
			h.MaxConnections, err = parseCount(d)
		default:
			return d.Errf("unknown option '%s': want max_message_size or max_connections", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseSize(d *caddyfile.Dispenser) (int64, error) {
	var word string
	if !d.AllArgs(&word) {
		return 0, d.ArgErr()
	}
	size, err := humanize.ParseBytes(word)
	if err != nil || size == 0 || size > math.MaxInt64 {
		return 0, d.Errf("bad size '%s': want a number with a unit, such as 16MiB", word)
	}
	return int64(size), nil
}

func parseCount(d *caddyfile.Dispenser) (int, error) {
	var word string
	if !d.AllArgs(&word) {
		return 0, d.ArgErr()
	}
	count, err := strconv.Atoi(word)
	if err != nil || count < 1 {
		return 0, d.Errf("bad count '%s': want a whole number above 0", word)
	}
	return count, nil
}

var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
