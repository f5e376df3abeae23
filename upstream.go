package watchrtcproxy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/idna"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/terminal"
)

// The relays that the vendor's proxy guide names.
const (
	presetProduction = "production"
	presetStaging    = "staging"
)

var presets = map[string]string{
	presetProduction: "wss://watchrtc.testrtc.com",
	presetStaging:    "wss://watchrtc-staging2.testrtc.com",
}

// upstreamForms is what every error about an upstream says is accepted.
const upstreamForms = "want production, staging, or a URL such as wss://relay.example:8443/base" +
	" with the scheme wss, https, ws or http"

// upstream is a relay.
type upstream struct {
	tls  bool
	host string // as in a URL: with a port unless it is the scheme's own
	base string // base path, escaped; empty or beginning but not ending with a slash

	// name is the canonical form: the same for each way to write the same relay. It
	// names the upstream in logs, and decides which tunnels survive a reload. All
	// tunnels share it.
	name string
}

// parseUpstream reads a preset or URL that holds no placeholder.
func parseUpstream(s string) (*upstream, error) {
	raw := s
	if preset, ok := presets[s]; ok {
		raw = preset
	}
	if strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") {
		return nil, badUpstream(s, "it is a path, and a directive has one mount, in front of the upstream; write another directive for another mount")
	}
	if !strings.Contains(raw, ":") {
		return nil, badUpstream(s, "it is neither a preset nor a URL")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, badUpstream(s, "it is not a URL")
	}
	up := &upstream{}
	switch strings.ToLower(u.Scheme) {
	case "wss", "https":
		up.tls = true
	case "ws", "http":
	default:
		return nil, badUpstream(s, "it has no scheme that is accepted")
	}
	if up.host, err = canonicalHost(u, up.defaultPort()); err != nil {
		return nil, badUpstream(s, err.Error())
	}
	if _, ok := presets[up.host]; ok {
		return nil, badUpstream(s, fmt.Sprintf("its host is the name of a preset, which is written %q alone", up.host))
	}
	switch {
	case u.User != nil:
		return nil, badUpstream(s, "it must not hold a user name or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, badUpstream(s, "it must have neither query nor fragment")
	case u.RawPath != "" && u.RawPath != u.EscapedPath():
		return nil, badUpstream(s, "its path holds characters that must be escaped")
	}
	up.base = strings.TrimRight(u.EscapedPath(), "/")
	up.name = "ws://" + up.host + up.base
	if up.tls {
		up.name = "wss://" + up.host + up.base
	}
	return up, nil
}

func badUpstream(s, why string) error {
	return fmt.Errorf("upstream %q: %s; %s%s", withoutCredentials(s), why, meantUpstream(s), upstreamForms)
}

// meantUpstream is the part of an error that names the upstream which is meant, or
// empty.
func meantUpstream(s string) string {
	if strings.ContainsAny(s, "@?#{ ") {
		return "" // may hold a secret, or is no slip
	}
	if meant := didYouMean(s, slices.Sorted(maps.Keys(presets))); meant != "" {
		return meant
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if ok {
		scheme = nearest(scheme, []string{"wss", "https", "ws", "http"})
	} else {
		scheme, rest = "wss", strings.TrimPrefix(s, "//")
	}
	meant := scheme + "://" + rest
	u, err := url.Parse(meant)
	if scheme == "" || meant == s || err != nil || !strings.ContainsAny(u.Host, ".:") {
		return ""
	}
	return fmt.Sprintf("did you mean %q? ", meant)
}

// withoutCredentials cuts out of a faulty upstream what may be secret: user name and
// password, and the query.
func withoutCredentials(s string) string {
	if i := strings.LastIndex(s, "@"); i >= 0 {
		s = "…" + s[i:]
	}
	if path, _, ok := strings.Cut(s, "?"); ok {
		s = path + "?…"
	}
	return s
}

// canonicalHost returns u's host in lower case, in the letters that DNS and certificates
// have for it, without the default port.
func canonicalHost(u *url.URL, defaultPort string) (string, error) {
	name, port := strings.ToLower(u.Hostname()), u.Port()
	if name == "" {
		return "", errors.New("it has no host")
	}
	unbracketed := strings.Contains(name, ":") && !strings.HasPrefix(u.Host, "[")
	if unbracketed || strings.ContainsAny(name, " \t%{}\"<>\\^`|*,;") {
		return "", errors.New("its host is not a host name")
	}
	if !isASCII(name) {
		var err error
		if name, err = idna.Lookup.ToASCII(name); err != nil {
			return "", errors.New("its host is not a host name")
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		return "", errors.New("its port is not between 1 and 65535")
	}
	if port == defaultPort || port == "" {
		if strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
		return name, nil
	}
	return net.JoinHostPort(name, port), nil
}

func (u *upstream) defaultPort() string {
	if u.tls {
		return "443"
	}
	return "80"
}

// checkUpstreams reports, at parse time, errors in upstreams without placeholders.
func checkUpstreams(upstreams []string) error {
	for _, s := range upstreams {
		if strings.Contains(s, "{") {
			continue
		}
		if _, err := parseUpstream(s); err != nil {
			return err
		}
	}
	if len(upstreams) > 1 {
		hint := ""
		if strings.Contains(upstreams[0], "://") {
			hint = "; of the address that clients connect to, write the path alone, such as /websocket"
		}
		return fmt.Errorf("upstream %q: one upstream is supported, and it is %q%s",
			withoutCredentials(upstreams[1]), withoutCredentials(upstreams[0]), hint)
	}
	return nil
}

// oneLine returns an error of Caddy's about placeholders, which repeats their names as they
// are written.
func oneLine(err error) string { return terminal.Printable(err.Error(), 300) }

// resolveUpstream replaces global placeholders and parses the result.
func resolveUpstream(upstreams []string) (*upstream, error) {
	if err := checkUpstreams(upstreams); err != nil {
		return nil, err
	}
	s := upstreams[0]
	resolved, err := caddy.NewReplacer().ReplaceOrErr(s, true, true)
	if err != nil {
		return nil, fmt.Errorf("upstream %q: %s; placeholders must be known when the configuration is loaded, such as {env.RELAY}", s, oneLine(err))
	}
	up, err := parseUpstream(resolved)
	if err != nil && resolved != s {
		return nil, fmt.Errorf("upstream %q: %w", s, err)
	}
	return up, err
}
