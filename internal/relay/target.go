package relay

import (
	"net"
	"net/url"
	"strings"
)

// Target says where a relay is.
type Target struct {
	TLS  bool
	Host string // as in a URL: with a port unless it is the scheme's own
	Base string // base path, escaped; empty, or beginning but not ending with a slash

	// Name is the canonical form: the same for each way to write the same relay.
	Name string
}

// Hostname is the host without port and brackets.
func (t *Target) Hostname() string { return (&url.URL{Host: t.Host}).Hostname() }

// address is what to dial.
func (t *Target) address() string {
	if _, _, err := net.SplitHostPort(t.Host); err == nil {
		return t.Host
	}
	port := "80"
	if t.TLS {
		port = "443"
	}
	return net.JoinHostPort(t.Hostname(), port)
}

// scheme is the one that http.Transport takes.
func (t *Target) scheme() string {
	if t.TLS {
		return "https"
	}
	return "http"
}

// URL returns where a request for escapedPath, which begins with a slash, goes. The
// query of from is kept byte for byte, but for spaces: HTTP/2 lets them through, and
// in HTTP/1.1 they would end the URL.
func (t *Target) URL(escapedPath string, from *url.URL) *url.URL {
	escaped := t.Base + escapedPath
	out := &url.URL{
		Scheme: t.scheme(), Host: t.Host,
		RawQuery: strings.ReplaceAll(from.RawQuery, " ", "%20"), ForceQuery: from.ForceQuery,
	}
	// A path that cannot be unescaped does not get past the server's parser.
	out.Path, _ = url.PathUnescape(escaped)
	out.RawPath = escaped
	return out
}
