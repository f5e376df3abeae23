package check

import (
	"fmt"
	"net/http"
	"strings"
)

// by says whose a status is.
func (r *run) by(x *exchange) string {
	status := fmt.Sprintf("status %d", x.StatusCode)
	switch {
	case x.relayed():
		return status + " from the relay"
	case r.Origin != "" && x.Header.Get("Access-Control-Allow-Origin") == r.Origin:
		return status + " from watchrtc_proxy" // which allows exactly the origin that asks
	}
	return status + " from the proxy, or from something in front of it"
}

// refused names the mistake behind a status that speaks for itself.
func (r *run) refused(x *exchange) (bad result, ok bool) {
	code := x.StatusCode
	switch {
	case code >= 300 && code < 400 && x.Header.Get("Location") != "":
		return r.redirected(x).andFinal(), true
	case code == http.StatusTooManyRequests:
		return failed("there are too many requests of this client", r.by(x),
			"see max_tunnels_per_client, and what limits rates in front of the proxy"), true
	case x.relayed() && code >= 500:
		return failed("the relay has an error", r.by(x), "the proxy works; see whether the relay does"), true
	case x.relayed():
		return result{}, false
	}
	switch code {
	case http.StatusUnauthorized:
		return failed("a login covers the mount", r.by(x), "keep basic_auth and forward_auth off the mount: the SDK cannot log in").andFinal(), true
	case http.StatusForbidden:
		return failed("the proxy refuses this client", r.by(x),
			"where they are set, `origins` must have the pages' origin (--origin) and `api_keys` the key (--api-key); else look in front of the proxy"), true
	case http.StatusServiceUnavailable:
		return failed("the proxy takes no requests now", r.by(x),
			"see whether it is being drained or has reached max_tunnels; try again later"), true
	case http.StatusLoopDetected:
		return failed("the upstream leads back to the proxy", r.by(x), "make the relay the upstream, not the proxy's own name"), true
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return failed("the relay is down, or the proxy does not reach it", r.by(x),
			"see the lines `relay failed` in the proxy's log: stage and error; try the relay from the proxy's computer"), true
	}
	return result{}, false
}

// redirected names the mistake behind a redirect, which no browser follows with a
// WebSocket.
func (r *run) redirected(x *exchange) result {
	seen := fmt.Sprintf("status %d", x.StatusCode)
	to, err := x.Request.URL.Parse(x.Header.Get("Location"))
	if err != nil || to.Host == "" {
		return failed("the server redirects", seen, "take the redirect off the mount: no WebSocket follows redirects")
	}
	target := r.quote(strings.Replace(to.Scheme, "http", "ws", 1) + "://" + to.Host + to.EscapedPath())
	mistake := "the server redirects to another path"
	switch {
	case !strings.EqualFold(to.Hostname(), r.URL.Hostname()):
		mistake = "the server redirects to another host"
	case to.Scheme == "https" && r.URL.Scheme == "ws":
		mistake = "the server redirects to https"
	}
	return failed(mistake, seen+" to "+r.quote(to.Scheme+"://"+to.Host+to.EscapedPath()),
		"take the redirect off the mount, or use "+target+": no WebSocket follows redirects")
}
