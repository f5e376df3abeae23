package watchrtcproxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
)

// Words in origins that are no origins.
const (
	originNull = "null" // what browsers send for pages without one, such as a sandboxed frame
	originNone = "none" // stands for requests without an Origin
)

// originForms is what every error about an origin says is accepted.
const originForms = "want an origin such as https://app.example or https://app.example:8443," +
	" any subdomain as https://*.example.com, null, or none for requests without an Origin"

// origins are those whose requests are taken. nil takes all.
type origins struct {
	exact      map[string]bool // canonical; null is one of them
	subdomains []subdomains
	none       bool // requests without an Origin
}

// subdomains are the origins below a domain, at any depth, without the domain itself.
type subdomains struct {
	scheme string // https://
	domain string // .example.com, and :8443 where there is a port
}

func newOrigins(words []string) (*origins, error) {
	if len(words) == 0 {
		return nil, nil
	}
	o := &origins{exact: make(map[string]bool)}
	return o, eachValue("origins", words, o.add)
}

// add takes an origin that the configuration names.
func (o *origins) add(word string) error {
	switch word {
	case originNone:
		o.none = true
		return nil
	case originNull, "file://": // the latter is a WebSocket's of a page in a file
		o.exact[word] = true
		return nil
	}
	scheme, authority, err := parseOrigin(word)
	if err != nil {
		return badOrigin(word, err)
	}
	if domain, ok := strings.CutPrefix(authority, "*."); ok {
		o.subdomains = append(o.subdomains, subdomains{scheme + "://", "." + domain})
		return nil
	}
	o.exact[scheme+"://"+authority] = true
	return nil
}

func badOrigin(word string, why error) error {
	return fmt.Errorf("%w; %s%s", why, meantOrigin(word), originForms)
}

// meantOrigin is the part of an error that names the origin which is meant, or empty.
func meantOrigin(word string) string {
	if meant := didYouMean(word, []string{originNull, originNone}); meant != "" {
		return meant
	}
	trimmed := strings.TrimRight(word, "/")
	for _, guess := range []string{trimmed, "https://" + trimmed, "http" + strings.TrimPrefix(trimmed, "ws")} {
		if _, _, err := parseOrigin(guess); err == nil {
			return fmt.Sprintf("did you mean %q? ", guess)
		}
	}
	return ""
}

// parseOrigin reads a configured origin (RFC 6454, section 6.2): a scheme, a host, and
// a port unless it is the scheme's own. It returns them as browsers write them.
func parseOrigin(word string) (scheme, authority string, err error) {
	u, err := url.Parse(strings.Replace(word, "://*.", "://", 1))
	switch {
	case word == "*":
		return "", "", errors.New("all origins are allowed where the option is left out")
	case err != nil || u.Scheme == "" || u.Opaque != "":
		return "", "", errors.New("it is no origin")
	case u.Scheme == "ws" || u.Scheme == "wss":
		return "", "", fmt.Errorf("the origin is that of the page, which is never loaded by %s", u.Scheme)
	case u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(word, "#"):
		return "", "", errors.New("an origin ends after its host and port")
	}
	host, err := originHost(u.Hostname())
	if err != nil {
		return "", "", err
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", errors.New("its port is not between 1 and 65535")
		}
		host += ":" + port
	} else if strings.HasSuffix(u.Host, ":") {
		return "", "", errors.New("its port is missing")
	}
	if strings.Contains(word, "://*.") {
		host = "*." + host
	}
	scheme, host, _ = strings.Cut(canonicalOrigin(u.Scheme+"://"+host), "://")
	return scheme, host, nil
}

// originHost returns a host name as browsers write it in an origin.
func originHost(name string) (string, error) {
	if strings.Contains(name, ":") {
		return "[" + name + "]", nil
	}
	if ascii, err := idna.Lookup.ToASCII(name); err == nil && isASCII(ascii) && !isASCII(name) {
		name = ascii
	}
	switch {
	case name == "":
		return "", errors.New("it has no host")
	case strings.HasSuffix(name, "."):
		return "", errors.New("its host ends in a dot")
	case strings.Contains(name, "*"):
		return "", errors.New("only a whole label at the beginning can be a *")
	case !isHostName(name):
		return "", errors.New("its host is not a host name")
	}
	return name, nil
}

// allow reports whether a request of this origin is taken. A repeated Origin is not:
// nobody knows which one counts. Browsers leave Origin out of a GET to the page's own
// site, and then tell so by Sec-Fetch-Site; where that names another site, the request
// is a page's after all, and not meant by none.
func (o *origins) allow(r *http.Request, rules *forward.Rules) bool {
	if o == nil {
		return true
	}
	if origin := r.Header["Origin"]; len(origin) > 0 {
		return len(origin) == 1 && o.has(origin[0])
	}
	site := r.Header["Sec-Fetch-Site"]
	switch {
	case len(site) == 0, len(site) == 1 && site[0] == "none": // the latter: typed by the user
		return o.none
	case len(site) == 1 && site[0] == "same-origin":
		return o.has(rules.Origin(r))
	}
	return false
}

// has reports whether an origin is one of those.
func (o *origins) has(origin string) bool {
	origin = canonicalOrigin(origin)
	if o.exact[origin] {
		return true
	}
	for _, below := range o.subdomains {
		rest, ok := strings.CutPrefix(origin, below.scheme)
		if !ok {
			continue
		}
		if label, ok := strings.CutSuffix(rest, below.domain); ok && isHostName(label) {
			return true
		}
	}
	return false
}

// canonicalOrigin writes an origin as browsers do: in lower case, and without the
// port that is the scheme's own.
func canonicalOrigin(origin string) string {
	origin = lowerASCII(origin)
	switch {
	case strings.HasPrefix(origin, "https://"):
		return strings.TrimSuffix(origin, ":443")
	case strings.HasPrefix(origin, "http://"):
		return strings.TrimSuffix(origin, ":80")
	}
	return origin
}

// lowerASCII is strings.ToLower for ASCII alone: there are other letters whose lower
// case is ASCII.
func lowerASCII(s string) string {
	if !isASCII(s) {
		return s
	}
	return strings.ToLower(s)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c > 0x7f })
}

// isHostName reports whether s is made of labels of letters, digits, hyphens and
// underscores, with a dot between two.
func isHostName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || strings.ContainsFunc(label, notInLabel) {
			return false
		}
	}
	return true
}

func notInLabel(c rune) bool {
	return (c < 'a' || 'z' < c) && (c < 'A' || 'Z' < c) && (c < '0' || '9' < c) && c != '-' && c != '_'
}
