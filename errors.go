package watchrtcproxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

// statusClientClosed is what Caddy logs for a client that did not wait.
const statusClientClosed = 499

var (
	errDraining     = errors.New("the upstream is being drained")
	errBodyTooLarge = errors.New("the request's body exceeds max_body_size")
	errLoop         = errors.New("the upstream leads back to this proxy")
	errClimbs       = errors.New("the path leads out of the mount")
	errMethod       = errors.New("the method is not one word")
	errEarly        = errors.New("the TLS handshake is not complete, so the client's address is not known")
)

// refusal is a response made here instead of by the relay. Its error holds no
// secrets: Caddy logs it.
type refusal struct {
	status     int
	err        error
	reason     string            // by which it is counted; empty for none
	forGood    bool              // the client need not try again
	retryAfter time.Duration     // at least; zero for no Retry-After
	header     map[string]string // besides those that each refusal has
}

// ofGateway reports whether f says that the relay has failed.
func (f *refusal) ofGateway() bool {
	return f.status == http.StatusBadGateway || f.status == http.StatusGatewayTimeout
}

func invalidHandshake(err error, extended bool) *refusal {
	if !errors.Is(err, handshake.ErrVersion) {
		return &refusal{status: http.StatusBadRequest, err: err, reason: reasonHandshake}
	}
	header := map[string]string{"Sec-WebSocket-Version": handshake.Version}
	if !extended { // HTTP/2 and 3 have neither of these
		header["Upgrade"], header["Connection"] = "websocket", "Upgrade"
	}
	return &refusal{status: http.StatusUpgradeRequired, err: err, reason: reasonHandshake, header: header}
}

func bodyTooLarge(err error) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, err: err, reason: reasonBody}
}

func (h *Handler) draining() *refusal {
	return &refusal{
		status: http.StatusServiceUnavailable, err: errDraining, reason: reasonDraining,
		retryAfter: max(time.Duration(*h.DrainWindow), time.Second),
	}
}

// refuse writes a refusal, or returns the error that has Caddy's error routes do so.
// Page code of an allowed origin can read it: a response without
// Access-Control-Allow-Origin is hidden from other origins' pages.
func (t *roundTrip) refuse(f *refusal) error {
	t.closeAfterUpload()
	if t.unread() {
		abandonBody(t.r, t.w)
	}
	if f.err == errLoop {
		t.h.hint(hintLoop, 0)
	}
	origin := t.r.Header.Get("Origin")
	if origin != "" && !t.originAllowed() {
		origin = ""
	}
	if t.allowPreflight(origin) {
		return nil
	}
	if f.reason != "" {
		totals.Reject(f.reason)
	}
	if f.forGood && t.webSocket && t.h.admission.greet {
		return t.greet(f)
	}
	header := t.w.Header()
	if origin != "" {
		header.Set("Access-Control-Allow-Origin", origin)
		header.Add("Vary", "Origin")
	}
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(spread(f.retryAfter).Round(time.Second)/time.Second)))
	}
	for field, value := range f.header {
		header.Set(field, value)
	}
	if f.status >= http.StatusInternalServerError && (!t.h.errorRoutes.see(t.r) || t.body.looksEmpty()) {
		t.w.WriteHeader(f.status)
		return nil
	}
	return caddyhttp.Error(f.status, f.err)
}

// allowPreflight allows a CORS preflight that would be refused here, and reports
// whether it did. A refused preflight keeps the browser from sending the request
// itself, and so keeps its page from reading why that is refused. It gives no
// permission that could be used: the request is refused in turn, or the relay responds
// under its own CORS rules. origin is empty unless it is allowed.
func (t *roundTrip) allowPreflight(origin string) bool {
	method := t.r.Header.Get("Access-Control-Request-Method")
	if t.r.Method != http.MethodOptions || origin == "" || method == "" {
		return false
	}
	header := t.w.Header()
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Allow-Methods", method)
	if fields := t.r.Header.Values("Access-Control-Request-Headers"); len(fields) > 0 {
		header["Access-Control-Allow-Headers"] = fields
	}
	header.Set("Access-Control-Max-Age", "0") // the relay may be back any time
	header.Add("Vary", "Origin")
	t.w.WriteHeader(http.StatusNoContent)
	return true
}

// fail refuses a request for which there is no response of a relay.
func (t *roundTrip) fail(err error) error {
	f := t.refusalFor(err)
	if f.status == statusClientClosed {
		if t.r.ProtoMajor == 1 {
			t.w.Header()["Connection"] = []string{"close"} // see abandonBody
		}
		t.w.WriteHeader(f.status)
		return nil
	}
	t.body.giveBack(t.r, unsent(err))
	return t.refuse(f)
}

// refusalFor returns what stands for the response of a relay that err has left out.
func (t *roundTrip) refusalFor(err error) *refusal {
	var client clientError
	var failure *relay.Error
	var tooLarge *http.MaxBytesError // of a request_body in front of this handler
	switch {
	case t.r.Context().Err() != nil:
		return &refusal{status: statusClientClosed, err: err}
	case errors.As(err, &tooLarge):
		return bodyTooLarge(tooLarge)
	case errors.Is(err, errBodyTooLarge):
		return bodyTooLarge(errBodyTooLarge)
	case errors.As(err, &client):
		return &refusal{status: http.StatusBadRequest, err: client.reason()}
	case errors.Is(err, errDraining):
		return t.h.draining()
	case errors.As(err, &failure) && failure.Timeout():
		return &refusal{status: http.StatusGatewayTimeout, err: err}
	}
	return &refusal{status: http.StatusBadGateway, err: err}
}

// unsent reports whether err came before a relay can have seen the request.
func unsent(err error) bool {
	var failure *relay.Error
	return errors.As(err, &failure) && failure.Unsent()
}

// reason says what is wrong with the client's body in words of our own: net/http may
// quote it.
func (e clientError) reason() error {
	switch {
	case errors.Is(e, io.ErrUnexpectedEOF), errors.Is(e, io.EOF):
		return errors.New("the request's body breaks off")
	case errors.Is(e, os.ErrDeadlineExceeded):
		return fmt.Errorf("the request's body does not come: %w", os.ErrDeadlineExceeded)
	}
	return errors.New("the request's body is not valid")
}

// errorRoutes tells whether an error route would see an error of this handler. Where
// none would, Caddy logs the error together with the request, whose URL holds the
// client's key.
type errorRoutes struct {
	server   *caddyhttp.Server
	enclosed bool // by a subroute that has error routes
}

func newErrorRoutes(ctx caddy.Context, server *caddyhttp.Server) errorRoutes {
	routes := errorRoutes{server: server}
	for _, module := range ctx.Modules() {
		if subroute, ok := module.(*caddyhttp.Subroute); ok && subroute.Errors != nil {
			routes.enclosed = true
		}
	}
	return routes
}

// see reports whether an error route would see an error of this handler. It looks at the
// server's routes when they are complete, which they are not yet at Provision. A subroute
// sees the errors of all handlers that come after it, and of the named routes that it
// invokes: any subroute with error routes counts that is not another site's.
func (e errorRoutes) see(r *http.Request) bool {
	if e.enclosed || e.server == nil {
		return true
	}
	if e.server.Errors != nil && len(e.server.Errors.Routes) > 0 {
		return true
	}
	for _, route := range e.server.NamedRoutes {
		if catchErrors(route.Handlers, r) {
			return true
		}
	}
	return anyCatchesErrors(e.server.Routes, r)
}

func anyCatchesErrors(routes caddyhttp.RouteList, r *http.Request) bool {
	return slices.ContainsFunc(routes, func(route caddyhttp.Route) bool {
		return !ofAnotherSite(route, r) && catchErrors(route.Handlers, r)
	})
}

// catchErrors reports whether there is a subroute with error routes among handlers,
// or below them.
func catchErrors(handlers []caddyhttp.MiddlewareHandler, r *http.Request) bool {
	return slices.ContainsFunc(handlers, func(handler caddyhttp.MiddlewareHandler) bool {
		subroute, ok := handler.(*caddyhttp.Subroute)
		return ok && (subroute.Errors != nil || anyCatchesErrors(subroute.Routes, r))
	})
}

// ofAnotherSite reports whether route is for other hosts than r's, whatever else it asks
// for.
func ofAnotherSite(route caddyhttp.Route, r *http.Request) bool {
	otherHost := func(matcher any) bool {
		hosts, ok := matcher.(*caddyhttp.MatchHost)
		if !ok {
			return false
		}
		match, err := hosts.MatchWithError(r)
		return !match && err == nil
	}
	for _, set := range route.MatcherSets {
		if !slices.ContainsFunc(set, otherHost) {
			return false
		}
	}
	return len(route.MatcherSets) > 0
}
