package watchrtcproxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
)

// outgoing returns the request for t.relay, without a body.
func (t *roundTrip) outgoing(ctx context.Context) *http.Request {
	ctx = t.relay.WithClient(ctx, t.h.rules.ClientAddrPort(t.r))
	out := &http.Request{
		Method:     t.r.Method,
		URL:        t.relay.URL(t.path, t.r.URL),
		Host:       t.relay.Host,
		Header:     t.h.rules.RequestHeader(t.r),
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

// setResponseHeader prepares w for the relay's response.
func (t *roundTrip) setResponseHeader(response *http.Response) {
	header, ops := t.w.Header(), t.h.Headers
	if ops == nil || ops.Response == nil {
		forward.ResponseHeader(header, response, t.r)
		return
	}
	repl := t.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for field, values := range response.Header {
		repl.Set(placeholderField+field, strings.Join(values, ","))
	}
	forward.ResponseHeader(header, response, t.r)
	if ops.Response.Require == nil || ops.Response.Require.Match(response.StatusCode, header) {
		ops.Response.ApplyTo(header, repl)
	}
}
