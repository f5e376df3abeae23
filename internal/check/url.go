package check

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const urlForm = "want the SDK's proxyUrl, such as wss://relay-proxy.example.com/websocket"

// ParseURL reads the SDK's proxyUrl. Its errors hold neither a query nor credentials.
func ParseURL(raw string) (*url.URL, error) {
	shown, _, hasQuery := strings.Cut(raw, "?")
	shown, _, hasFragment := strings.Cut(shown, "#")
	if i := strings.LastIndex(shown, "@"); i >= 0 {
		shown = "…" + shown[i:]
	}
	bad := func(why string) error { return fmt.Errorf("URL %q: %s; %s", shown, why, urlForm) }
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, bad("it is not a URL")
	case hasQuery:
		return nil, bad("it must have no query; the key goes into --api-key or --token")
	case hasFragment:
		return nil, bad("it must have no fragment")
	case u.User != nil:
		return nil, bad("it must hold no user name or password: browsers send none with a WebSocket")
	}
	switch u.Scheme = strings.ToLower(u.Scheme); u.Scheme {
	case "wss", "ws":
	case "https", "http":
		return nil, bad(fmt.Sprintf("did you mean %q?", strings.Replace(u.Scheme, "http", "ws", 1)+shown[len(u.Scheme):]))
	default:
		if bare, err := url.Parse("wss://" + shown); err == nil && strings.ContainsAny(bare.Hostname(), ".:") && !strings.Contains(shown, "//") {
			return nil, bad(fmt.Sprintf("did you mean %q?", "wss://"+shown))
		}
		return nil, bad("its scheme is not wss or ws")
	}
	if err := checkHost(u); err != nil {
		return nil, bad(err.Error())
	}
	return u, nil
}

func checkHost(u *url.URL) error {
	name := u.Hostname()
	_, err := netip.ParseAddr(name)
	switch {
	case name == "":
		return errors.New("it has no host")
	case err != nil && (!httpguts.ValidHostHeader(name) || strings.ContainsAny(name, ":,;*()'!$&+=~")):
		return errors.New("its host is not a host name")
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && (err != nil || n == 0) {
		return errors.New("its port is not between 1 and 65535")
	}
	return nil
}

// ParseOrigin checks an origin as browsers send it.
func ParseOrigin(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || raw != u.Scheme+"://"+u.Host {
		shown, _, _ := strings.Cut(raw, "?")
		return "", fmt.Errorf("origin %q: want scheme and host of the pages with the SDK, such as https://app.example.com", shown)
	}
	return raw, nil
}

func (r *run) port() uint16 {
	if n, err := strconv.ParseUint(r.URL.Port(), 10, 16); err == nil {
		return uint16(n)
	}
	if r.URL.Scheme == "wss" {
		return 443
	}
	return 80
}

// endpoint is where the SDK sends requests: it appends the path without trimming.
func (r *run) endpoint(path string) *url.URL {
	u, err := url.Parse("http" + strings.TrimPrefix(r.URL.String(), "ws") + path)
	if err != nil {
		panic(err) // ParseURL has parsed it, and path is a constant
	}
	return u
}

// query is the SDK's, for a WebSocket.
func (r *run) query() string {
	key := ""
	switch {
	case r.Token != "":
		key = "token=" + url.QueryEscape(r.Token) + "&"
	case r.APIKey != "":
		key = "apiKey=" + url.QueryEscape(r.APIKey) + "&"
	}
	return fmt.Sprintf("%stimestamp=%d&apiVersion=v1&sessionId=%s&newConnection=true", key, r.Now().UnixMilli(), session)
}

// session is how a check is known in the proxy's logs.
const session = "watchrtc-check"
