package forward

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// privateRanges is the name of all private and loopback ranges.
const privateRanges = "private_ranges"

// trust tells whose X-Forwarded-* to trust.
type trust struct {
	// ranges are the handler's own, or the private ones where neither the handler
	// nor the server sets any; nil where the server decides.
	ranges []netip.Prefix
	// unix: a unix socket's peer is trusted, as a loopback address is.
	unix bool
}

func newTrust(trusted []string, server *caddyhttp.Server) (trust, error) {
	if len(trusted) > 0 {
		ranges, err := ParseRanges(trusted)
		return trust{ranges: ranges}, err
	}
	if serverTrusts(server) {
		return trust{}, nil
	}
	ranges, err := ParseRanges([]string{privateRanges})
	return trust{ranges: ranges, unix: true}, err
}

// byServer reports whether the server decides whom to trust.
func (t *trust) byServer() bool { return t.ranges == nil }

// trusts reports whether r's X-Forwarded-* count. peer is r's, and invalid where
// it has no address.
func (t *trust) trusts(peer netip.Addr, r *http.Request) bool {
	server, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	switch {
	case Early(r):
		return false // it may be anyone's address
	case t.byServer():
		return server
	case peer.IsValid():
		return t.contains(peer)
	default:
		// Nothing is known of a peer without an address that is no unix socket's.
		return viaUnixSocket(r) && (t.unix || server)
	}
}

func (t *trust) contains(addr netip.Addr) bool {
	return slices.ContainsFunc(t.ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// firstUntrusted goes back through a chain whose last proxy is trusted, and returns
// the last address that can be relied on: the first that no trusted range contains.
// proxy is the answer where the chain says nothing.
func (t *trust) firstUntrusted(proxy netip.Addr, chain []string) netip.Addr {
	client := proxy
	for _, element := range slices.Backward(chain) {
		addr := parseAddr(element)
		if !addr.IsValid() {
			break
		}
		client = addr
		if !t.contains(addr) {
			break
		}
	}
	return client
}

// peerAddr returns the address of whoever connected. A unix socket's peer has none,
// even where the path that it is bound to reads like one.
func peerAddr(r *http.Request) netip.Addr {
	if viaUnixSocket(r) {
		return netip.Addr{}
	}
	return parseAddr(r.RemoteAddr)
}

// viaUnixSocket reports whether r came over a unix socket. RemoteAddr does not tell:
// a unix socket's is "@", empty or a path, and other modules may set any text. Whoever
// may send a PROXY protocol header can claim a unix socket, as it can a loopback address.
func viaUnixSocket(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && strings.HasPrefix(local.Network(), "unix")
}

// ParseRanges reads addresses, CIDR ranges, and private_ranges for all private and
// loopback ones.
func ParseRanges(words []string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	for _, word := range words {
		exprs := []string{word}
		if word == privateRanges {
			exprs = caddyhttp.PrivateRangesCIDR()
		}
		for _, expr := range exprs {
			prefix, err := caddyhttp.CIDRExpressionToPrefix(expr)
			if err != nil {
				return nil, fmt.Errorf("trusted_proxies %q: want private_ranges, an IP address, or a range such as 10.0.0.0/8", word)
			}
			ranges = append(ranges, prefix)
		}
	}
	return ranges, nil
}

// serverTrusts reports whether the server has trusted_proxies. Caddy keeps what
// it made of the option to itself and drops the option, so this looks at the
// private field; where a later Caddy has none, the server is taken to have
// decided, which trusts nobody by itself.
func serverTrusts(server *caddyhttp.Server) bool {
	if server == nil {
		return false
	}
	field := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	if !field.IsValid() || field.Kind() != reflect.Interface {
		return true
	}
	return !field.IsNil() || server.TrustedProxiesUnix
}
