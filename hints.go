package watchrtcproxy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

// What requests tell of mistakes, as far as the load could not. Each hint is a constant,
// so that there are few to count.
const (
	hintStray = "an SDK opens its WebSocket outside the mount, where the site's other handlers respond; " +
		"its proxyUrl must end with the mount"
	hintQuery = "the SDK's proxyUrl has a query, which swallows what the SDK appends; " +
		"write it without one"
	hintBelow = "the SDK's proxyUrl goes on below the mount, and the relay has nothing there; " +
		"it must end with the mount"
	hintUncut = "the mount is not cut off, and the relay has nothing below it; " +
		"write it after the directive: watchrtc_proxy /websocket"
	hintBase = "the upstream's path is probably wrong: the relay has nothing there"
	hintTLS  = "the upstream's scheme means plain text; if that is a TLS port, write wss"
	hintElse = "the upstream is probably no watchRTC relay, or another proxy whose mount belongs into the upstream's path"
	hintLoop = "the upstream leads back to this Caddy; want the relay's own address"
)

// hint logs what a request tells of a mistake, sampled as faults are. status is the
// relay's, or 0 where it was not asked.
func (h *Handler) hint(text string, status int) {
	f := fault{upstream: h.upstream.name, stage: relay.StageStatus, hint: text}
	if status != 0 {
		f.detail = zap.Int("status", status)
	}
	faults.add(f)
}

// hintOf looks for the mistake behind a response of the relay that the SDK cannot use.
func (t *roundTrip) hintOf(response *http.Response) {
	status := response.StatusCode
	if !t.misunderstood(status) {
		return
	}
	above, _ := t.endpoint()
	hint := hintElse
	switch {
	case above != "" && t.h.PathPrefix != "":
		hint = hintBelow
	case above != "":
		hint = hintUncut
	case t.h.upstream.base != "":
		hint = hintBase
	case status == http.StatusBadRequest:
		hint = hintTLS
	}
	t.h.hint(hint, status)
}

// misunderstood reports whether a relay that is asked as the SDK means it would not have
// responded so.
func (t *roundTrip) misunderstood(status int) bool {
	if status == http.StatusBadRequest && !t.h.upstream.tls {
		return true // that is what servers say to plain text on a TLS port
	}
	nothing := status == http.StatusNotFound || status == http.StatusMethodNotAllowed
	if t.webSocket {
		return nothing || status < http.StatusBadRequest
	}
	if !nothing {
		return false
	}
	_, ok := t.endpoint()
	return ok
}

// endpoint splits the path into what of the SDK's is at its end, if anything is, and what
// should not be above it.
func (t *roundTrip) endpoint() (above string, ok bool) {
	path := strings.TrimRight(t.path, "/")
	if t.webSocket {
		return path, true
	}
	for _, endpoint := range sdkEndpoints {
		if above, ok := strings.CutSuffix(path, endpoint); ok {
			return above, true
		}
	}
	return "", false
}

// noteQuery logs that the SDK has appended to a query: its own begins with a second
// question mark then, and its paths end up after the first.
func (t *roundTrip) noteQuery() {
	query := t.r.URL.RawQuery
	if query == "" || t.path != "/" {
		return
	}
	_, appended, _ := strings.Cut(query, "?")
	if strings.HasPrefix(appended, "apiKey=") || strings.HasPrefix(appended, "token=") ||
		t.r.Method == http.MethodPost && slices.ContainsFunc(sdkEndpoints, func(path string) bool { return strings.HasSuffix(query, path) }) {
		t.h.hint(hintQuery, 0)
	}
}

// subprotocol is what the SDK offers with each WebSocket, and sessionParameter is in the
// query of each (watchRTC SDK 1.43.1).
const (
	subprotocol      = "2.0"
	sessionParameter = "sessionId"
)

// strayMatcher brings the SDK's WebSockets outside the mount to the handler, which logs
// them and lets them go on.
func strayMatcher() caddy.ModuleMap {
	return caddy.ModuleMap{
		"header": caddyconfig.JSON(http.Header{"Sec-Websocket-Protocol": {subprotocol}}, nil),
		"query":  caddyconfig.JSON(map[string][]string{sessionParameter: {"*"}}, nil),
	}
}

// noteStray logs that r is an SDK's WebSocket which no mount of this server is for.
func (h *Handler) noteStray(r *http.Request) {
	if !handshake.Asked(r) || !slices.Contains(r.Header["Sec-Websocket-Protocol"], subprotocol) ||
		!strings.Contains(r.URL.RawQuery, sessionParameter+"=") {
		return
	}
	server := h.errorRoutes.server
	path := escapedPath(r.URL)
	if server == nil || mounted(server.Routes, path) {
		return
	}
	for _, route := range server.NamedRoutes {
		if mounted(caddyhttp.RouteList{*route}, path) {
			return
		}
	}
	h.hint(hintStray, 0)
}

// mounted reports whether some handler of routes, or below them, takes a path.
func mounted(routes caddyhttp.RouteList, path string) bool {
	return slices.ContainsFunc(routes, func(route caddyhttp.Route) bool {
		return slices.ContainsFunc(route.Handlers, func(handler caddyhttp.MiddlewareHandler) bool {
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				return mounted(handler.Routes, path)
			case *Handler:
				_, ok := cutMount(path, handler.PathPrefix)
				return ok
			}
			return false
		})
	})
}
