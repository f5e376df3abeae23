package forward

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// setForwarded sets X-Forwarded-* and Forwarded: those of a trusted peer are
// continued, those of any other are replaced. It reads them from r, so that
// Connection cannot take them away.
func (rules *Rules) setForwarded(header http.Header, r *http.Request) {
	peer := peerAddr(r)
	trusted := rules.trust.trusts(peer, r)

	var chain []string
	if trusted {
		chain = rules.chain(r)
	}
	if peer.IsValid() {
		chain = append(chain, peer.String())
	}
	if rules.mask {
		for i := range chain {
			chain[i] = maskText(chain[i])
		}
	}
	if len(chain) > 0 {
		header["X-Forwarded-For"] = []string{strings.Join(chain, ", ")}
	}

	proto, host := site(r, trusted)
	header["X-Forwarded-Proto"] = []string{proto}
	header["X-Forwarded-Host"] = []string{host}
	// Forwarded may hold addresses in forms that cannot be masked with certainty.
	if said := r.Header["Forwarded"]; trusted && len(said) > 0 && !rules.mask {
		header["Forwarded"] = slices.Clone(said)
	}
}

// site returns the scheme and host that the client has asked, as a trusted peer names
// them.
func site(r *http.Request, trusted bool) (proto, host string) {
	proto, host = "http", r.Host
	if r.TLS != nil {
		proto = "https"
	}
	if trusted {
		proto = lastOr(r.Header["X-Forwarded-Proto"], proto)
		host = lastOr(r.Header["X-Forwarded-Host"], host)
	}
	return proto, host
}

// lastOr returns the last of lines, or instead where that says nothing.
func lastOr(lines []string, instead string) string {
	if len(lines) == 0 || lines[len(lines)-1] == "" {
		return instead
	}
	return lines[len(lines)-1]
}

// Origin returns the origin of the site that r asks (RFC 6454, section 6.1), with the
// scheme and host that the client knows.
func (rules *Rules) Origin(r *http.Request) string {
	proto, host := site(r, rules.trust.trusts(peerAddr(r), r))
	return proto + "://" + host
}

// chain returns the addresses that a trusted peer names, the client's first. Where
// X-Forwarded-For has none, the server's client_ip_headers may have it.
func (rules *Rules) chain(r *http.Request) []string {
	chain := splitChain(r.Header["X-Forwarded-For"])
	if slices.ContainsFunc(chain, func(s string) bool { return parseAddr(s).IsValid() }) {
		return chain
	}
	if client := rules.namedClient(r); client.IsValid() {
		return []string{client.String()}
	}
	return chain
}

// namedClient returns the client that a trusted peer names in a field of
// client_ip_headers other than X-Forwarded-For.
func (rules *Rules) namedClient(r *http.Request) netip.Addr {
	if rules.trust.byServer() {
		if client := serversClient(r); client != peerAddr(r) {
			return client
		}
		return netip.Addr{}
	}
	for _, field := range rules.clientIPHeaders {
		if client := rules.trust.firstUntrusted(netip.Addr{}, splitChain(r.Header[field])); client.IsValid() {
			return client
		}
	}
	return netip.Addr{}
}

// Client returns the address that r came from first, as far as peers are trusted, and
// unmasked. It is invalid where none is known.
func (rules *Rules) Client(r *http.Request) netip.Addr {
	peer := peerAddr(r)
	switch {
	case Early(r):
		return peer // the server does not ask whether it may be anyone's
	case rules.trust.byServer():
		return serversClient(r)
	case !rules.trust.trusts(peer, r):
		return peer
	}
	return rules.trust.firstUntrusted(peer, rules.chain(r))
}

// serversClient is the client's address as Caddy's server has found it.
func serversClient(r *http.Request) netip.Addr {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return parseAddr(ip)
}

// ClientIP returns the client's address for logs, masked if addresses are. It is
// empty where none is known.
func (rules *Rules) ClientIP(r *http.Request) string {
	client := rules.Client(r)
	if !client.IsValid() {
		return ""
	}
	if rules.mask {
		client = maskAddr(client)
	}
	return client.String()
}

// ClientAddrPort returns the client's address for a PROXY protocol header, masked
// if addresses are. The port is 0 unless it is the client's own. Where no address
// is known it is 0.0.0.0, because Caddy's transport can send no header without one.
func (rules *Rules) ClientAddrPort(r *http.Request) netip.AddrPort {
	client := rules.Client(r)
	if !client.IsValid() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	if rules.mask {
		return netip.AddrPortFrom(maskAddr(client), 0)
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || peerAddr(r) != client {
		return netip.AddrPortFrom(client, 0)
	}
	return netip.AddrPortFrom(client, peer.Port())
}

// splitChain returns the elements of X-Forwarded-For lines in order, their
// addresses without port and zone. What is no address is kept as it is.
func splitChain(lines []string) []string {
	var chain []string
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			element = strings.TrimSpace(element)
			if addr := parseAddr(element); addr.IsValid() {
				element = addr.String()
			}
			if element != "" {
				chain = append(chain, element)
			}
		}
	}
	return chain
}

// parseAddr reads an address with or without port, brackets and zone. The zero
// Addr stands for anything else, such as the "@" of a unix socket.
func parseAddr(s string) netip.Addr {
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

// maskAddr zeroes an address below /24 (IPv4) or /48 (IPv6).
func maskAddr(addr netip.Addr) netip.Addr {
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.Addr{}
	}
	return network.Addr()
}

// maskText masks an element of a chain. What is no address may hold one, and is
// replaced by the word that RFC 7239 has for that.
func maskText(s string) string {
	addr := parseAddr(s)
	if !addr.IsValid() {
		return "unknown"
	}
	return maskAddr(addr).String()
}
