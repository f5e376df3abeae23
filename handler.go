package watchrtcproxy

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/limits"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

// ServeHTTP is the whole way of a request, whether it opens a WebSocket or not.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	path, ok := cutMount(escapedPath(r.URL), h.PathPrefix)
	if !ok {
		h.noteStray(r)
		return next.ServeHTTP(w, r)
	}
	stopping.track(r)
	h.leave(w, r)
	t := &roundTrip{h: h, w: w, r: r, path: path, webSocket: handshake.Asked(r)}
	t.noteQuery()
	if refused := t.admit(); refused != nil {
		return t.refuse(refused)
	}
	defer t.freeSlot()
	if err := t.body.receive(t); err != nil {
		return t.fail(err)
	}
	defer t.begin()()
	response, err := t.send()
	switch {
	case err != nil:
		return t.fail(err)
	case response.StatusCode == http.StatusSwitchingProtocols:
		return t.openTunnel(response)
	case response.StatusCode < http.StatusMultipleChoices && handshake.Extended(r):
		return t.notAccepted(response)
	default:
		// A handshake that the relay refuses is over, and its client may take nothing of the
		// response: over HTTP/2 nobody here could end that.
		t.freeSlot()
		return t.writeResponse(response)
	}
}

// leave has a client open another connection if this one leads to a configuration that has
// gone. One over HTTP/2 that comes in the instant of a reload is told nothing by net/http and
// could stay for as long as it is used; a response with this field makes net/http send GOAWAY.
func (h *Handler) leave(w http.ResponseWriter, r *http.Request) {
	if h.gone.Load() && r.ProtoMajor == 2 {
		w.Header()["Connection"] = []string{"close"}
	}
}

// roundTrip is one request on its way, and what has come of it.
type roundTrip struct {
	h         *Handler
	w         http.ResponseWriter
	r         *http.Request
	path      string // escaped, below the mount
	webSocket bool   // r asks for an upgrade

	slot    *limits.Slot // of a WebSocket, until there is a tunnel
	limit   *relay.Limit
	body    clientBody
	interim interim
	relay   *relay.Relay // the last one tried
	tally   tally
	conn    net.Conn // of a WebSocket, after the relay's 101

	requestConn atomic.Pointer[net.Conn] // of anything else, where the transport tells
}

// admit returns why r is refused before a relay is asked, or nil. A WebSocket that is
// not refused has a slot.
func (t *roundTrip) admit() *refusal {
	if refused := t.check(); refused != nil {
		return refused
	}
	if refused := t.identify(); refused != nil {
		return refused
	}
	switch {
	case t.webSocket && t.h.lease.Draining():
		return t.h.draining()
	case t.webSocket:
		return t.takeSlot()
	case t.r.ContentLength > t.h.MaxBodySize:
		return bodyTooLarge(errBodyTooLarge)
	}
	return nil
}

// check returns what is wrong with r, or nil.
func (t *roundTrip) check() *refusal {
	switch {
	case forward.IsLoop(t.r):
		return &refusal{status: http.StatusLoopDetected, err: errLoop, reason: reasonLoop}
	case climbs(t.path):
		return &refusal{status: http.StatusBadRequest, err: errClimbs}
	case !validMethod(t.r.Method):
		return &refusal{status: http.StatusBadRequest, err: errMethod}
	case t.webSocket && forward.Early(t.r):
		return &refusal{status: http.StatusTooEarly, err: errEarly, reason: reasonHandshake}
	case t.webSocket:
		if err := handshake.Check(t.r); err != nil {
			return invalidHandshake(err, handshake.Extended(t.r))
		}
	}
	return nil
}

// validMethod reports whether a method is one word. HTTP/2 lets others through,
// which would be another request in HTTP/1.1.
func validMethod(method string) bool { return httpguts.ValidHeaderFieldName(method) }

// begin starts the time that relays have. done ends whatever is left of the request.
func (t *roundTrip) begin() (done func()) {
	t.limit = relay.NewLimit(t.r.Context(), t.h.handshakeTimeout())
	stopped := stopping.done
	if t.webSocket {
		stopped = stopping.begun
	}
	release := t.limit.EndWith(stopped)
	// A transport that is canceled still waits for the body that it is reading.
	releaseBody := whenDone(stopping.done, func() {
		t.limit.Cancel(errDraining) // first, or the client would seem to be to blame for its body
		http.NewResponseController(t.w).SetReadDeadline(time.Unix(1, 0))
		t.dropRelay()
	})
	return func() {
		release()
		releaseBody()
		t.limit.End()
		t.body.release()
	}
}

// whenDone calls f when ctx is done, unless stop is called first. When stop has returned,
// f is over: a ResponseWriter must not be used any more once its handler has returned.
func whenDone(ctx context.Context, f func()) (stop func()) {
	over := make(chan struct{})
	before := context.AfterFunc(ctx, func() {
		defer close(over)
		f()
	})
	return func() {
		if !before() {
			<-over
		}
	}
}

// send asks the relays in turn, as long as none can have seen the request, and
// returns the first response.
func (t *roundTrip) send() (*http.Response, error) {
	var err error
	for _, t.relay = range t.h.relays {
		var response *http.Response
		response, err = t.attempt()
		if err == nil || !unsent(err) || t.limit.Context.Err() != nil {
			return response, err
		}
	}
	return nil, err
}

// attempt asks t.relay.
func (t *roundTrip) attempt() (response *http.Response, err error) {
	t.asking()
	if t.webSocket {
		response, err = t.shakeHands()
	} else {
		response, err = t.post()
	}
	inTime := t.limit.Stop()
	t.stop1xx()
	if err == nil && !inTime {
		response.Body.Close()
		response, err = nil, t.relay.Late(t.limit)
	}
	t.asked(response, err)
	return response, err
}

func (h *Handler) handshakeTimeout() time.Duration { return time.Duration(h.HandshakeTimeout) }
