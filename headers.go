package watchrtcproxy

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// hopByHop are the fields that concern one connection only, besides those that
// Connection names (RFC 9110, section 7.6.1). TE and Trailer are dealt with where
// trailers are.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// notToRelay are the fields that the relay, a third party on the operator's
// domain, must not see.
var notToRelay = append([]string{"Cookie", "Authorization"}, hopByHop...)

// notToClient are the fields with which the relay could act as the operator's
// origin, or on the whole of it.
var notToClient = append([]string{
	"Set-Cookie", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data", "Nel",
	"Report-To", "Reporting-Endpoints", "Service-Worker-Allowed", "Public-Key-Pins",
}, hopByHop...)

// sandbox keeps the relay's content from running as the operator's origin.
const sandbox = "sandbox; default-src 'none'"

// requestHeader returns the header for the relay: what r may pass on, and what
// is said on r's behalf. It shares no map with r.
func (h *Handler) requestHeader(r *http.Request) http.Header {
	header := r.Header.Clone()
	trailers := httpguts.HeaderValuesContainsToken(header["Te"], "trailers")
	strip(header, notToRelay)
	if trailers {
		header["Te"] = []string{"trailers"}
	}
	delete(header, ":protocol") // of an extended CONNECT over HTTP/2
	h.forward(header, r)
	header["Via"] = append(header["Via"], via(r.ProtoMajor, r.ProtoMinor))
	if r.TLS != nil && !r.TLS.HandshakeComplete {
		header["Early-Data"] = []string{"1"} // RFC 8470, section 5.1
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""} // or net/http sends its own
	}
	return header
}

// responseHeader adds the fields of the relay's response to header.
func responseHeader(header http.Header, answer *http.Response) {
	strip(answer.Header, notToClient)
	delete(header, "Server") // Via tells of this proxy
	for field, values := range answer.Header {
		header[field] = append(header[field], values...)
	}
	header["Via"] = append(header["Via"], via(answer.ProtoMajor, answer.ProtoMinor))
	if answer.StatusCode != http.StatusSwitchingProtocols {
		header["X-Content-Type-Options"] = []string{"nosniff"}
		header["Content-Security-Policy"] = []string{sandbox}
	}
}

// strip deletes fields, and those that Connection names, from header.
func strip(header http.Header, fields []string) {
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	for _, field := range fields {
		delete(header, field)
	}
}

// via is the value that Caddy's reverse_proxy appends to Via.
func via(major, minor int) string {
	return strconv.Itoa(major) + "." + strconv.Itoa(minor) + " Caddy"
}

// forward sets the X-Forwarded-* fields: those of a believed peer are kept and
// continued, those of any other are replaced.
func (h *Handler) forward(header http.Header, r *http.Request) {
	peer := peerAddr(r.RemoteAddr)
	believed := h.trust.believes(peer, r)

	var chain []string
	if believed {
		chain = splitChain(header["X-Forwarded-For"])
	}
	if peer.IsValid() {
		chain = append(chain, peer.String())
	}
	if h.MaskClientIP {
		for i := range chain {
			chain[i] = maskIP(chain[i])
		}
	}
	setOrDelete(header, "X-Forwarded-For", strings.Join(chain, ", "))

	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	setForwarded(header, "X-Forwarded-Proto", proto, believed)
	setForwarded(header, "X-Forwarded-Host", r.Host, believed)

	if !believed || h.MaskClientIP {
		delete(header, "Forwarded")
	}
	if h.MaskClientIP {
		delete(header, "X-Real-Ip")
	}
}

func setOrDelete(header http.Header, field, value string) {
	if value == "" {
		delete(header, field)
		return
	}
	header[field] = []string{value}
}

// setForwarded keeps what a believed peer said last, or says what is seen here.
func setForwarded(header http.Header, field, seen string, believed bool) {
	said := header[field]
	if believed && len(said) > 0 && said[len(said)-1] != "" {
		seen = said[len(said)-1]
	}
	header[field] = []string{seen}
}

// splitChain returns the elements of X-Forwarded-For lines in order, their
// addresses without port and zone. What is no address is kept as it is.
func splitChain(lines []string) []string {
	var chain []string
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = strings.TrimSpace(element)
			if addr := peerAddr(element); addr.IsValid() {
				element = addr.String()
			}
			if element != "" {
				chain = append(chain, element)
			}
		}
	}
	return chain
}

// peerAddr reads an address with or without port, brackets and zone. The zero
// Addr stands for anything else, such as the "@" of a unix socket.
func peerAddr(s string) netip.Addr {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	} else {
		s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// maskIP cuts an address to its network. What is no address may hold one, and is
// replaced by the word that RFC 7239 has for that.
func maskIP(s string) string {
	addr := peerAddr(s)
	if !addr.IsValid() {
		return "unknown"
	}
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return network.Addr().String()
}

// trust tells whose X-Forwarded-* to believe.
type trust struct {
	// ranges are the handler's own, or the private ones where neither the handler
	// nor the server sets any; nil where the server decides.
	ranges []netip.Prefix
	// local: a unix socket's peer is believed, as a loopback address is.
	local bool
}

// privateRanges is the name of all private and loopback ranges.
const privateRanges = "private_ranges"

func newTrust(trusted []string, server *caddyhttp.Server) (trust, error) {
	if len(trusted) == 0 {
		if serverTrusts(server) {
			return trust{}, nil
		}
		ranges, err := parseRanges([]string{privateRanges})
		return trust{ranges: ranges, local: true}, err
	}
	ranges, err := parseRanges(trusted)
	return trust{ranges: ranges}, err
}

// believes reports whether r's X-Forwarded-* count. peer is invalid for a unix
// socket.
func (t trust) believes(peer netip.Addr, r *http.Request) bool {
	if t.ranges == nil || !peer.IsValid() {
		byServer, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
		return byServer || t.local
	}
	return slices.ContainsFunc(t.ranges, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// client returns the address that r came from first, as far as peers are believed.
func (t trust) client(r *http.Request) string {
	peer := peerAddr(r.RemoteAddr)
	if t.ranges == nil {
		ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
		return strings.Clone(ip)
	}
	client := peer
	chain := splitChain(r.Header["X-Forwarded-For"])
	for i := len(chain) - 1; i >= 0 && t.believes(client, r); i-- {
		addr := peerAddr(chain[i])
		if !addr.IsValid() {
			break
		}
		client = addr
	}
	if !client.IsValid() {
		return ""
	}
	return client.String()
}

func parseRanges(words []string) ([]netip.Prefix, error) {
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
// decided, which believes nobody by itself.
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
