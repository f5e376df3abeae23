package forward

import (
	"net/http"
	"strings"
)

// hopByHop are the fields that concern one connection only, besides those that
// Connection names (RFC 9110, section 7.6.1).
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate",
	"Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
}

// neverToRelay are the fields that the relay, a third party on the operator's
// domain, must not see, whoever sent them. docs/headers.md has the same table.
// Forwarded and three of X-Forwarded-* are put back as trust allows.
var neverToRelay = [][]string{
	// What the browser has for the operator's domain.
	{"Cookie", "Authorization"},
	// Other fields that name a client's address or what it asked for.
	{
		"Forwarded", "Forwarded-*", "X-Forwarded", "X-Forwarded-*",
		"X-Real-IP", "True-Client-IP", "CF-*", "Fastly-*", "X-Client-IP", "X-Cluster-Client-IP", "X-Original-*",
		"X-Originating-*", "X-Remote-*", "X-Azure-*", "X-Envoy-*", "X-ProxyUser-*", "X-Coming-From",
		"X-Appengine-*", "Client-IP",
	},
	// Who the user is to the operator.
	{
		"Remote-*", "X-Auth-*", "X-Amzn-*", "X-Amz-Cf-*", "X-Goog-*", "X-MS-*", "X-Authentik-*", "X-WebAuth-*",
		"X-Pomerium-*", "X-Vouch-*", "Tailscale-*", "X-SSL-*", "SSL-Client-*", "X-Client-Cert*", "Client-Cert*",
		"X-Token-*",
	},
	// The operator's tracing.
	{
		"traceparent", "tracestate", "baggage", "B3", "X-B3-*", "X-Request-Id", "X-Correlation-Id",
		"X-Cloud-Trace-Context", "Uber-Trace-Id", "X-Datadog-*", "Sentry-Trace",
	},
}

// neverToClient are the fields with which the relay could act as the operator's
// origin or on the whole of it, or steer a server in front. docs/headers.md has
// the same table.
var neverToClient = [][]string{
	{
		"Set-Cookie", "Set-Login", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data", "NEL", "Report-To",
		"Reporting-Endpoints", "Service-Worker-Allowed", "Public-Key-Pins", "Expect-CT", "Accept-CH", "Critical-CH",
		"Origin-Agent-Cluster", "Use-As-Dictionary", "Secure-Session-*", "Sec-Session-*",
	},
	// Where the browser goes next, even from a page in a sandbox.
	{"Refresh"},
	// Orders to a web server in front.
	{"X-Accel-*", "X-Sendfile"},
}

// Fields set here, or judged with the rest of the header, which a trailer must not
// contradict.
var (
	setForRelay  = []string{"Via", "CDN-Loop", "Referer", "Early-Data"}
	setForClient = []string{"Via", "X-Content-Type-Options", "Content-Security-Policy", "Location"}
)

var (
	toRelay          = newFieldSet(append(neverToRelay, hopByHop)...)
	toRelayTrailers  = newFieldSet(append(neverToRelay, hopByHop, setForRelay)...)
	toClient         = newFieldSet(append(neverToClient, hopByHop)...)
	toClientTrailers = newFieldSet(append(neverToClient, hopByHop, setForClient)...)
)

// maxFieldName is longer than any name in a fieldSet.
const maxFieldName = 64

// fieldSet is a set of field names. One that ends in * stands for all that begin
// with the rest of it.
type fieldSet struct {
	names    map[string]bool
	prefixes map[byte][]string // by their first byte, which most fields do not share
}

func newFieldSet(groups ...[]string) fieldSet {
	set := fieldSet{names: make(map[string]bool), prefixes: make(map[byte][]string)}
	for _, group := range groups {
		for _, name := range group {
			name = strings.ToLower(name)
			if prefix, ok := strings.CutSuffix(name, "*"); ok {
				set.prefixes[prefix[0]] = append(set.prefixes[prefix[0]], prefix)
			} else {
				set.names[name] = true
			}
		}
	}
	return set
}

// has reports whether the set holds field, in any case. An underscore counts as a
// hyphen: CGI and its descendants do not tell them apart (RFC 3875, section
// 4.1.18), so X_Real_IP is X-Real-IP to some relays.
func (s *fieldSet) has(field string) bool {
	var folded [maxFieldName]byte
	n := min(len(field), maxFieldName)
	for i := range n {
		switch c := field[i]; {
		case c == '_':
			folded[i] = '-'
		case 'A' <= c && c <= 'Z':
			folded[i] = c + 'a' - 'A'
		default:
			folded[i] = c
		}
	}
	name := folded[:n]
	if n == 0 {
		return false
	}
	if s.names[string(name)] {
		return true
	}
	for _, prefix := range s.prefixes[name[0]] {
		if n >= len(prefix) && string(name[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}

// strip deletes the fields of never, and those that Connection names, from header.
func strip(header http.Header, never *fieldSet) {
	for _, line := range header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	for field := range header {
		if never.has(field) {
			delete(header, field)
		}
	}
}
