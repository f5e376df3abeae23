package watchrtcproxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/dustin/go-humanize"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
)

const directive = "watchrtc_proxy"

func init() {
	httpcaddyfile.RegisterDirective(directive, parseDirective)
	httpcaddyfile.RegisterDirectiveOrder(directive, httpcaddyfile.Before, "rewrite")
}

// parseDirective builds the route. A path matcher is the mount point: it matches
// the path and everything below it, and the handler strips it.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	handler := new(Handler)
	mount, isMount := "", false
	if h.NextArg() {
		mount, isMount = parseMount(h.Val())
		switch token := h.Val(); {
		case isMount:
		case neverMatches(token):
			return nil, h.Errf("mount %q: no path holds a ? or #; want a path alone, such as /websocket", token)
		case lacksSlash(token):
			return nil, h.Errf("upstream %q: it is neither a preset nor a URL; as a mount it would be written %q; %s", token, "/"+token, upstreamForms)
		}
	}
	h.Reset()
	h.Next()
	matchers, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, h.WrapErr(err)
	}
	if isMount {
		handler.PathPrefix = mount
		matchers = nil
	}
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if handler.PathPrefix == "" {
		return h.NewRoute(matchers, handler), nil
	}
	values := h.NewRoute(caddy.ModuleMap{"path": h.JSON(caddyhttp.MatchPath{mount, mount + "/*"})}, handler)
	route := values[0].Value.(caddyhttp.Route)
	route.MatcherSetsRaw = append(route.MatcherSetsRaw, strayMatcher())
	values[0].Value = route
	return values, nil
}

// options are what a block may hold, in the order of the documentation.
var options = []struct {
	name  string
	parse func(h *Handler, d *caddyfile.Dispenser) error
	often bool // may be given more than once
}{
	{name: "to", parse: (*Handler).parseTo},
	{name: "transport", parse: (*Handler).parseTransport},
	{name: "trusted_proxies", parse: (*Handler).parseTrustedProxies},
	{name: "mask_client_ip", parse: (*Handler).parseMaskClientIP},
	{name: "header_up", parse: (*Handler).parseHeaderUp, often: true},
	{name: "header_down", parse: (*Handler).parseHeaderDown, often: true},
	{name: "origins", parse: (*Handler).parseOrigins},
	{name: "api_keys", parse: (*Handler).parseAPIKeys},
	{name: "refuse_with", parse: (*Handler).parseRefuseWith},
	{name: "max_tunnels", parse: (*Handler).parseMaxTunnels},
	{name: "max_tunnels_per_client", parse: (*Handler).parseMaxTunnelsPerClient},
	{name: "max_body_size", parse: (*Handler).parseMaxBodySize},
	{name: "handshake_timeout", parse: (*Handler).parseHandshakeTimeout},
	{name: "idle_timeout", parse: (*Handler).parseIdleTimeout},
	{name: "drain_window", parse: (*Handler).parseDrainWindow},
	{name: "fail_duration", parse: (*Handler).parseFailDuration},
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens:
//
//	watchrtc_proxy [<matcher>] [<upstream>] {
//		to                     <upstream>
//		transport              http { ... }
//		trusted_proxies        [private_ranges] <ranges...>
//		mask_client_ip
//		header_up              [+|-]<field> [<value|regexp> [<replacement>]]
//		header_down            [+|-]<field> [<value|regexp> [<replacement>]]
//		origins                <origins...>
//		api_keys               <keys...>
//		refuse_with            status|greeting
//		max_tunnels            <count>
//		max_tunnels_per_client <count>
//		max_body_size          <size>
//		handshake_timeout      <duration>
//		idle_timeout           <duration>
//		drain_window           <duration>
//		fail_duration          <duration>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	if err := h.addUpstreams(d, d.RemainingArgs()); err != nil {
		return err
	}
	given := make(map[string]bool)
	for d.NextBlock(0) {
		if err := h.parseOption(d, given); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) parseOption(d *caddyfile.Dispenser, given map[string]bool) error {
	name := d.Val()
	var names []string
	for _, option := range options {
		if option.name != name {
			names = append(names, option.name)
			continue
		}
		if given[name] && !option.often {
			return d.Errf("%s is given twice; give it once", name)
		}
		given[name] = true
		return option.parse(h, d)
	}
	return d.Errf("unknown option %q of %s; %sthe options are %s", name, directive, didYouMean(name, names), strings.Join(names, ", "))
}

func (h *Handler) addUpstreams(d *caddyfile.Dispenser, upstreams []string) error {
	h.Upstreams = append(h.Upstreams, upstreams...)
	if err := checkUpstreams(h.Upstreams); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseTo(d *caddyfile.Dispenser) error {
	upstreams := d.RemainingArgs()
	if len(upstreams) == 0 {
		return missing(d, "to", upstreamForms)
	}
	return h.addUpstreams(d, upstreams)
}

func (h *Handler) parseTransport(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return missing(d, "transport", "want http")
	}
	if d.Val() != "http" {
		return d.Errf("transport %q is not supported; the only one accepted is http", d.Val())
	}
	if d.CountRemainingArgs() > 0 {
		d.NextArg()
		return d.Errf("transport http takes a block, but is given %q; want transport http { ... }", d.Val())
	}
	mod, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport.http")
	if err != nil {
		return err
	}
	h.TransportRaw = caddyconfig.JSONModuleObject(mod, "protocol", "http", nil)
	return nil
}

func (h *Handler) parseTrustedProxies(d *caddyfile.Dispenser) error {
	h.TrustedProxies = d.RemainingArgs()
	if len(h.TrustedProxies) == 0 {
		return missing(d, "trusted_proxies", "want private_ranges, IP addresses, or ranges such as 10.0.0.0/8")
	}
	if _, err := forward.ParseRanges(h.TrustedProxies); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseMaskClientIP(d *caddyfile.Dispenser) error {
	h.MaskClientIP = true
	if d.NextArg() {
		return d.Errf("mask_client_ip takes no argument, but is given %q", d.Val())
	}
	return nil
}

func (h *Handler) parseHeaderUp(d *caddyfile.Dispenser) error {
	if h.Headers == nil {
		h.Headers = new(headers.Handler)
	}
	if h.Headers.Request == nil {
		h.Headers.Request = new(headers.HeaderOps)
	}
	return parseHeaderOp(d, h.Headers.Request)
}

func (h *Handler) parseHeaderDown(d *caddyfile.Dispenser) error {
	if h.Headers == nil {
		h.Headers = new(headers.Handler)
	}
	if h.Headers.Response == nil {
		h.Headers.Response = &headers.RespHeaderOps{HeaderOps: new(headers.HeaderOps)}
	}
	return parseHeaderOp(d, h.Headers.Response.HeaderOps)
}

func parseHeaderOp(d *caddyfile.Dispenser, ops *headers.HeaderOps) error {
	name := d.Val()
	args := d.RemainingArgs()
	var value string
	var replacement *string
	switch len(args) {
	case 1:
		// A field alone is deleted or set to nothing.
	case 2:
		value = args[1]
	case 3:
		value, replacement = args[1], &args[2]
		if err := checkRegexp(value); err != nil {
			return d.Errf("%s %s %q: %v; want a regular expression (RE2)", name, args[0], value, err)
		}
	default:
		return d.Errf("%s has %d arguments; want [+|-]<field> [<value|regexp> [<replacement>]]", name, len(args))
	}
	if err := headers.CaddyfileHeaderOp(ops, args[0], value, replacement); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// checkRegexp reports, at parse time, errors in regular expressions without
// placeholders.
func checkRegexp(expr string) error {
	if strings.Contains(expr, "{") {
		return nil // a placeholder, or a repetition
	}
	_, err := regexp.Compile(expr)
	return err
}

func (h *Handler) parseOrigins(d *caddyfile.Dispenser) error {
	h.Origins = d.RemainingArgs()
	if len(h.Origins) == 0 {
		return missing(d, "origins", originForms)
	}
	if _, err := newOrigins(withoutPlaceholders(h.Origins)); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseAPIKeys(d *caddyfile.Dispenser) error {
	h.APIKeys = d.RemainingArgs()
	if len(h.APIKeys) == 0 {
		return missing(d, "api_keys", keyForms)
	}
	if _, err := newAPIKeys(withoutPlaceholders(h.APIKeys)); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseRefuseWith(d *caddyfile.Dispenser) (err error) {
	if h.RefuseWith, err = oneArg(d, "want "+strings.Join(refusalForms, " or ")); err != nil {
		return err
	}
	if err := checkRefuseWith(h.RefuseWith); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (h *Handler) parseMaxTunnels(d *caddyfile.Dispenser) (err error) {
	h.MaxTunnels, err = countArg(d)
	return err
}

func (h *Handler) parseMaxTunnelsPerClient(d *caddyfile.Dispenser) (err error) {
	h.MaxTunnelsPerClient, err = countArg(d)
	return err
}

// countArg reads the only argument of an option as a number above 0.
func countArg(d *caddyfile.Dispenser) (int, error) {
	const form = "want a count above 0 such as 10000"
	name := d.Val()
	word, err := oneArg(d, form)
	if err != nil {
		return 0, err
	}
	count, err := strconv.Atoi(word)
	if err != nil || count < 1 {
		return 0, d.Errf("%s %q: %s", name, word, form)
	}
	return count, nil
}

func (h *Handler) parseMaxBodySize(d *caddyfile.Dispenser) error {
	const form = "want a size above 0 such as 16MiB"
	word, err := oneArg(d, form)
	if err != nil {
		return err
	}
	size, err := humanize.ParseBytes(word)
	if err != nil || size == 0 || size > 1<<62 {
		return d.Errf("max_body_size %q: %s", word, form)
	}
	h.MaxBodySize = int64(size)
	return nil
}

func (h *Handler) parseHandshakeTimeout(d *caddyfile.Dispenser) error {
	timeout, err := durationArg(d, time.Nanosecond, "want a duration above 0 such as 10s")
	h.HandshakeTimeout = caddy.Duration(timeout)
	return err
}

func (h *Handler) parseIdleTimeout(d *caddyfile.Dispenser) error {
	timeout, err := durationArg(d, 0, "want a duration such as 10m, or 0 for no limit")
	h.IdleTimeout = new(caddy.Duration(timeout))
	return err
}

func (h *Handler) parseDrainWindow(d *caddyfile.Dispenser) error {
	window, err := durationArg(d, 0, "want a duration such as 20s, or 0 to close all at once")
	h.DrainWindow = new(caddy.Duration(window))
	return err
}

func (h *Handler) parseFailDuration(d *caddyfile.Dispenser) error {
	failDuration, err := durationArg(d, 0, "want a duration such as 10s, or 0 to remember no failures")
	h.FailDuration = new(caddy.Duration(failDuration))
	return err
}

// durationArg reads the only argument of an option as a duration of at least low.
func durationArg(d *caddyfile.Dispenser, low time.Duration, form string) (time.Duration, error) {
	name := d.Val()
	word, err := oneArg(d, form)
	if err != nil {
		return 0, err
	}
	value, err := caddy.ParseDuration(word)
	if err != nil || value < low {
		return 0, d.Errf("%s %q: %s", name, word, form)
	}
	return value, nil
}

// oneArg reads the only argument of an option.
func oneArg(d *caddyfile.Dispenser, form string) (string, error) {
	name := d.Val()
	args := d.RemainingArgs()
	switch len(args) {
	case 0:
		return "", missing(d, name, form)
	case 1:
		return args[0], nil
	}
	return "", d.Errf("%s takes one argument, but is also given %q; %s", name, args[1], form)
}

func missing(d *caddyfile.Dispenser, name, form string) error {
	return d.Err(fmt.Sprintf("%s lacks its argument; %s", name, form))
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
