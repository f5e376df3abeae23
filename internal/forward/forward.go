// Package forward decides which header fields cross the proxy, each way, and what
// they say of the client: X-Forwarded-*, whom to trust with them, and masking.
package forward

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// sandbox keeps the relay's content from running as the operator's origin.
const sandbox = "sandbox; default-src 'none'"

// runnable are the words by which a media type tells a browser that a page may have it
// run as its own, which no policy in the response prevents: those of JavaScript (WHATWG
// MIME Sniffing, section 4.6) have script in their name, and WebAssembly is a module to
// HTML. From each part of a multipart response Firefox takes Set-Cookie, unless its
// network.cookie.prevent_set_cookie_from_multipart is on (nsMultiMixedConv.cpp).
var runnable = []string{"script", "wasm", "multipart"}

// Rules are those of one handler. They do not change once made, so that any
// number of requests may use them at a time.
type Rules struct {
	trust trust
	// clientIPHeaders are the fields besides X-Forwarded-For in which the server
	// looks for the client's address.
	clientIPHeaders []string
	mask            bool
	// leftmost: the server decides, and takes the left-most address for the client's.
	leftmost bool
}

// New returns the rules of a handler that trusts the peers in trustedProxies, or
// where that is empty those that server trusts, or where that trusts none either
// those in private ranges. server may be nil. With mask, every address is cut to
// its network before it leaves.
func New(trustedProxies []string, mask bool, server *caddyhttp.Server) (*Rules, error) {
	trust, err := newTrust(trustedProxies, server)
	if err != nil {
		return nil, err
	}
	rules := &Rules{trust: trust, mask: mask}
	rules.leftmost = trust.byServer() && server.TrustedProxiesStrict == 0
	if server != nil {
		for _, field := range server.ClientIPHeaders {
			if field = http.CanonicalHeaderKey(field); field != "X-Forwarded-For" {
				rules.clientIPHeaders = append(rules.clientIPHeaders, field)
			}
		}
	}
	return rules, nil
}

// ClientForgeable reports whether a client can make up the address that Client
// returns: where the server's trusted_proxies decide without trusted_proxies_strict,
// Caddy takes the left-most address of X-Forwarded-For, which the client may have put
// there.
func (rules *Rules) ClientForgeable() bool { return rules.leftmost }

// RequestHeader returns the header for the relay: what of r's may cross, and what
// the proxy says on r's behalf. It shares no map with r.
func (rules *Rules) RequestHeader(r *http.Request) http.Header {
	header := r.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	strip(header, &toRelay)
	for _, field := range rules.clientIPHeaders {
		delete(header, field)
	}
	delete(header, ":protocol") // of an extended CONNECT over HTTP/2
	if httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers") {
		header["Te"] = []string{"trailers"}
	}
	cutReferer(header)
	rules.setForwarded(header, r)
	markLoop(header, r)
	header["Via"] = append(header["Via"], via(r.ProtoMajor, r.ProtoMinor))
	if Early(r) {
		header["Early-Data"] = []string{"1"} // RFC 8470, section 5.1
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""} // or net/http sends its own
	}
	return header
}

// Early reports whether r came before its TLS handshake was complete (QUIC's 0-RTT). It
// may be sent again by anyone, and its peer has shown for nothing that its address is its
// own: whoever has a session ticket can send it with any other.
func Early(r *http.Request) bool { return r.TLS != nil && !r.TLS.HandshakeComplete }

// RequestTrailer reports whether a trailer field may cross to the relay. What may
// not cross in the header may not cross after the body either.
func (rules *Rules) RequestTrailer(field string) bool {
	return httpguts.ValidHeaderFieldName(field) && httpguts.ValidTrailerHeader(field) &&
		!toRelayTrailers.has(field) && !slices.Contains(rules.clientIPHeaders, field)
}

// ResponseHeader adds the fields of the relay's response that may cross to dst. They
// replace those of the same name that the site has set: twice
// Access-Control-Allow-Origin is as good as none to a browser. Vary and Via are
// lists that each proxy extends. request is the client's.
func ResponseHeader(dst http.Header, response *http.Response, request *http.Request) {
	StripResponse(response.Header)
	if !leadsAway(response.Header["Location"], sitesOf(request)) {
		delete(response.Header, "Location")
	}
	delete(dst, "Server") // Via tells of this proxy
	for field, values := range response.Header {
		if field == "Vary" || field == "Via" {
			values = append(dst[field], values...)
		}
		dst[field] = values
	}
	dst["Via"] = append(dst["Via"], via(response.ProtoMajor, response.ProtoMinor))
	if response.StatusCode != http.StatusSwitchingProtocols {
		dst["X-Content-Type-Options"] = []string{"nosniff"}
		dst["Content-Security-Policy"] = []string{sandbox}
		if isRunnable(response.Header["Content-Type"]) {
			dst["Content-Type"] = []string{"text/plain"}
		}
	}
}

// isRunnable reports whether any line of Content-Type has a word of runnable. Browsers
// do not agree on what several lines, or several types in one, mean.
func isRunnable(contentType []string) bool {
	return slices.ContainsFunc(contentType, func(line string) bool {
		line = strings.ToLower(line)
		return slices.ContainsFunc(runnable, func(word string) bool { return strings.Contains(line, word) })
	})
}

// elsewhere is a URL whose host every browser reads in the same way: a name, as it is.
var elsewhere = regexp.MustCompile(`^https?://((?:[A-Za-z0-9-]+\.)+[A-Za-z][A-Za-z0-9-]*)(?::[0-9]+)?(?:[/?#]|$)`)

// leadsAway reports whether a Location leads to a site that is none of own. After a 307 a
// browser sends a page's POST on as that page, and on the same site with the user's
// cookies.
func leadsAway(location, own []string) bool {
	if len(location) != 1 {
		return false // browsers do not agree on which counts
	}
	match := elsewhere.FindStringSubmatch(location[0])
	return match != nil && !slices.Contains(own, siteName(match[1]))
}

// sitesOf returns the sites that a request may have come from or been sent to, whoever
// says so: those who lie gain nothing.
func sitesOf(r *http.Request) []string {
	sites := []string{siteName(withoutPort(r.Host))}
	for _, line := range r.Header["X-Forwarded-Host"] {
		for host := range strings.SplitSeq(line, ",") {
			sites = append(sites, siteName(withoutPort(strings.TrimSpace(host))))
		}
	}
	if origin, err := url.Parse(r.Header.Get("Origin")); err == nil {
		sites = append(sites, siteName(origin.Hostname()))
	}
	return sites
}

// siteName returns the last two labels of a name, by which sites are told apart here. That may
// take two for the same (co.uk) but never one for two.
func siteName(name string) string {
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(name, ".")), ".")
	return strings.Join(labels[max(len(labels)-2, 0):], ".")
}

func withoutPort(host string) string { return (&url.URL{Host: host}).Hostname() }

// StripResponse deletes the fields that may not cross to the client from a header of
// the relay's, such as that of a 1xx response.
func StripResponse(header http.Header) { strip(header, &toClient) }

// ResponseTrailer reports whether a trailer field may cross to the client.
func ResponseTrailer(field string) bool {
	return httpguts.ValidTrailerHeader(field) && !toClientTrailers.has(field)
}

// via is the value that Caddy's reverse_proxy appends to Via.
func via(major, minor int) string {
	return strconv.Itoa(major) + "." + strconv.Itoa(minor) + " Caddy"
}

// cutReferer leaves of Referer what a browser shows to another site by default:
// the page's origin, not its path.
func cutReferer(header http.Header) {
	referers, ok := header["Referer"]
	if !ok {
		return
	}
	u, err := url.Parse(referers[0])
	if err != nil || u.Scheme == "" || u.Host == "" {
		delete(header, "Referer")
		return
	}
	origin := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}
	header["Referer"] = []string{origin.String()}
}
