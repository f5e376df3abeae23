package watchrtcproxy

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/stats"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// The words by which the process counts, besides those of packages relay and tunnel.
const (
	reasonKey       = "api_key"
	reasonBody      = "body"
	reasonDraining  = "draining"
	reasonHandshake = "handshake"
	reasonLoop      = "loop"
	reasonTotal     = "max_tunnels"
	reasonPerClient = "max_tunnels_per_client"
	reasonOrigin    = "origin"

	endpointTrace  = "trace"
	endpointError  = "error"
	endpointConfig = "config"
	endpointOther  = "other"
)

// totals are those of the process, whatever configuration counted.
var totals = stats.New(stats.Labels{
	Stages:    relay.Stages(),
	Closers:   []string{tunnel.ByClient, tunnel.ByRelay, tunnel.ByProxy},
	Endpoints: []string{endpointTrace, endpointError, endpointConfig, endpointOther},
	Reasons: []string{
		reasonKey, reasonBody, reasonDraining, reasonHandshake, reasonLoop, reasonTotal, reasonPerClient, reasonOrigin,
	},
})

// tally is what a request has been counted as so far. All that is counted of requests
// and tunnels is counted in this file, and in refuse.
type tally struct {
	upstream  *stats.Upstream
	begun     time.Time
	handshake stats.Handshake // of a WebSocket
}

// asking counts that t.relay is being asked.
func (t *roundTrip) asking() {
	t.tally = tally{upstream: totals.Upstream(t.relay.Name), begun: time.Now()}
	if t.webSocket {
		t.tally.handshake = t.tally.upstream.BeginHandshake()
	}
	t.setPlaceholder(placeholderUpstream, t.relay.Name)
}

// asked counts what has come of it: a response of the relay, or an error. A handshake
// that the relay has accepted is counted when the tunnel opens.
func (t *roundTrip) asked(response *http.Response, err error) {
	t.tally.upstream.SetCertificateEnd(t.relay.CertificateEnd())
	if response != nil {
		faults.responded(t.tally.upstream)
	}
	f := t.faultOf(response, err)
	if f != nil {
		faults.add(*f)
	}
	if t.webSocket {
		t.shookHands(response, f)
	} else {
		t.posted(response, err)
	}
}

// faultOf returns what the relay has done wrong, or nil.
func (t *roundTrip) faultOf(response *http.Response, err error) *fault {
	if err != nil {
		var failure *relay.Error
		if t.refusalFor(err).ofGateway() && errors.As(err, &failure) {
			return &fault{upstream: failure.Relay, stage: failure.Stage, text: failure.Error(), down: failure.Down()}
		}
		return nil
	}
	if t.webSocket && response.StatusCode != http.StatusSwitchingProtocols {
		return &fault{
			upstream: t.relay.Name, stage: relay.StageStatus, text: "the relay refused a handshake",
			detail: zap.Int("status", response.StatusCode),
		}
	}
	return nil
}

func (t *roundTrip) shookHands(response *http.Response, f *fault) {
	t.setPlaceholder(placeholderHandshake, time.Since(t.tally.begun))
	switch {
	case f != nil:
		t.tally.handshake.Failed(string(f.stage))
	case response == nil:
		t.notOpened()
	}
}

func (t *roundTrip) posted(response *http.Response, err error) {
	endpoint := endpointOf(t.r.Method, t.path)
	if err != nil {
		t.tally.upstream.Responded(endpoint, t.refusalFor(err).status)
		return
	}
	t.tally.upstream.Responded(endpoint, response.StatusCode)
	t.tally.upstream.ResponseTook(time.Since(t.tally.begun))
}

// opened counts a tunnel that is about to begin.
func (t *roundTrip) opened() (handshake time.Duration) { return t.tally.handshake.Opened() }

// notOpened counts a handshake that fails without the relay's doing.
func (t *roundTrip) notOpened() { t.tally.handshake.Failed(string(relay.StageCanceled)) }

// brokeOff counts a response that the relay has begun and not finished.
func (t *roundTrip) brokeOff() {
	if t.limit.Context.Err() == nil && !t.body.failed() {
		faults.add(fault{upstream: t.relay.Name, stage: relay.StageInvalid, text: "the relay broke off a response"})
	}
}

// tunnelClosed counts and logs the end of a tunnel.
func tunnelClosed(s tunnel.Summary) {
	totals.Upstream(s.Upstream).Closed(s.ClosedBy, s.CloseCode, s.Duration)
	logClosed(s)
}

// upstreamStates returns what is known of the tunnels of each upstream, by name. Totals
// has those that are configured, from the start.
func upstreamStates() map[string]tunnel.UpstreamState {
	states := make(map[string]tunnel.UpstreamState)
	for _, s := range tunnels.Upstreams() {
		if s.Configured {
			totals.Upstream(s.Name)
		}
		states[s.Name] = s
	}
	return states
}

// endpointOf says what a request is for. A CORS preflight is for none of them.
func endpointOf(method, path string) string {
	if method == http.MethodOptions {
		return endpointOther
	}
	switch path {
	case "/trace":
		return endpointTrace
	case "/error":
		return endpointError
	case "/get-qualityrtc-config":
		return endpointConfig
	}
	return endpointOther
}

// The placeholders for access logs, and what begins the names of the relay's fields in
// header_down.
const (
	placeholderUpstream  = "http.watchrtc_proxy.upstream"
	placeholderTunnel    = "http.watchrtc_proxy.tunnel_id"
	placeholderHandshake = "http.watchrtc_proxy.handshake_duration"
	placeholderField     = "http.watchrtc_proxy.header."
)

// setPlaceholder sets one for handlers that come after this one, and for access logs.
func (t *roundTrip) setPlaceholder(name string, value any) {
	if repl, ok := t.r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set(name, value)
	}
}
