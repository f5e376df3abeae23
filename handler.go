package watchrtcproxy

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ServeHTTP carries r to the relay.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path, ok := cutMount(escapedPath(r.URL), h.PathPrefix)
	if !ok {
		return next.ServeHTTP(w, r)
	}
	stopping.track(r)
	if !asksForUpgrade(r) {
		return h.serveExchange(w, r, path)
	}
	if bad := checkHandshake(r); bad != nil {
		return refuse(w, r, bad)
	}
	return h.serveWebSocket(w, r, path)
}

// outbound returns the request for the relay, without a body. ctx ends it.
func (h *Handler) outbound(ctx context.Context, r *http.Request, path string) *http.Request {
	out := &http.Request{
		Method:     r.Method,
		URL:        h.upstream.url(path, r.URL),
		Host:       h.upstream.host,
		Header:     h.requestHeader(r),
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
	}
	return out.WithContext(ctx)
}

// applyRequestOps applies header_up, which comes after every rule of ours.
func (h *Handler) applyRequestOps(out *http.Request) {
	if h.Headers != nil && h.Headers.Request != nil {
		h.Headers.Request.ApplyToRequest(out)
	}
}

// placeholderPrefix begins the names of the relay's fields in header_down.
const placeholderPrefix = "http.watchrtc_proxy.header."

// writeAnswerHeader prepares w for the relay's answer.
func (h *Handler) writeAnswerHeader(w http.ResponseWriter, r *http.Request, answer *http.Response) {
	ops := h.Headers
	if ops == nil || ops.Response == nil {
		answerHeader(w.Header(), answer)
		return
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for field, values := range answer.Header {
		repl.Set(placeholderPrefix+field, strings.Join(values, ","))
	}
	answerHeader(w.Header(), answer)
	if ops.Response.Require == nil || ops.Response.Require.Match(answer.StatusCode, w.Header()) {
		ops.Response.ApplyTo(w.Header(), repl)
	}
}

func (h *Handler) handshakeTimeout() time.Duration { return time.Duration(h.HandshakeTimeout) }

// deadline cancels a round trip that the relay takes too long to answer.
type deadline struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	after  time.Duration
}

func newDeadline(parent context.Context, after time.Duration) *deadline {
	ctx, cancel := context.WithCancelCause(parent)
	d := &deadline{ctx: ctx, cancel: cancel, after: after}
	d.timer = time.AfterFunc(after, func() { cancel(errHandshakeTimeout) })
	return d
}

// pause and resume leave out the time that the client takes.
func (d *deadline) pause()  { d.timer.Stop() }
func (d *deadline) resume() { d.timer.Reset(d.after) }

// endWith cancels the round trip when ctx ends as well.
func (d *deadline) endWith(ctx context.Context) (release func() bool) {
	return context.AfterFunc(ctx, func() { d.cancel(context.Cause(ctx)) })
}

// end releases the context.
func (d *deadline) end() {
	d.timer.Stop()
	d.cancel(nil)
}
