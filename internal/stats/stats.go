// Package stats holds the process's totals: what has become of handshakes, requests
// and tunnels, by upstream. They go on over reloads, and begin again with the process.
// What tunnels carry is counted by package tunnel.
//
// It knows neither Caddy nor Prometheus, nor what its labels mean.
package stats

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Labels are the words by which things are counted. Nothing is counted by any other,
// so there are never more of them.
type Labels struct {
	Stages    []string // at which handshakes fail
	Closers   []string // who close tunnels
	Endpoints []string // what requests are for
	Reasons   []string // why requests are refused
}

// Totals are those of a process.
type Totals struct {
	labels   Labels
	rejected counters[string]

	mu        sync.RWMutex // protects upstreams
	upstreams map[string]*Upstream
}

// New returns totals of 0.
func New(labels Labels) *Totals {
	return &Totals{labels: labels, rejected: newCounters(labels.Reasons), upstreams: make(map[string]*Upstream)}
}

// Upstream returns the totals of an upstream. There is one for each name that was ever
// asked for, so it must be one that a configuration has.
func (t *Totals) Upstream(name string) *Upstream {
	t.mu.RLock()
	u := t.upstreams[name]
	t.mu.RUnlock()
	if u != nil {
		return u
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if u = t.upstreams[name]; u == nil {
		u = newUpstream(name, t.labels)
		t.upstreams[name] = u
	}
	return u
}

// Upstreams returns all there are, by name.
func (t *Totals) Upstreams() []*Upstream {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.upstreams), func(a, b *Upstream) int { return cmp.Compare(a.Name, b.Name) })
}

// Reject counts a request that was refused without asking a relay.
func (t *Totals) Reject(reason string) { t.rejected.add(reason) }

// Rejected returns how many requests were refused for each reason.
func (t *Totals) Rejected() map[string]uint64 { return t.rejected.load() }

// Upstream holds the totals of one upstream.
type Upstream struct {
	Name string

	inFlight  atomic.Int64
	opened    atomic.Uint64
	failures  counters[string]
	closed    counters[Close]
	requests  counters[Request]
	notAfter  atomic.Int64 // Unix time in seconds; 0 while it is not known
	handshake histogram
	lifetime  histogram
	response  histogram
	health    health
}

// Close is how a tunnel was closed.
type Close struct {
	By   string
	Code string // a registered close code, or OtherCode
}

// Request is what a request that opens no WebSocket was for, and how it went.
type Request struct {
	Endpoint string
	Class    string // of the response's status, such as 2xx
}

func newUpstream(name string, labels Labels) *Upstream {
	return &Upstream{
		Name:      name,
		failures:  newCounters(labels.Stages),
		closed:    newCounters(closes(labels.Closers)),
		requests:  newCounters(requests(labels.Endpoints)),
		handshake: newHistogram(responseBuckets),
		response:  newHistogram(responseBuckets),
		lifetime:  newHistogram(lifetimeBuckets),
	}
}

// Handshake is one that is under way.
type Handshake struct {
	upstream *Upstream
	begun    time.Time
}

// BeginHandshake counts a handshake as under way until it is either Opened or Failed.
func (u *Upstream) BeginHandshake() Handshake {
	u.inFlight.Add(1)
	return Handshake{u, time.Now()}
}

// Opened counts a tunnel, and what its handshake took.
func (h Handshake) Opened() (took time.Duration) {
	took = time.Since(h.begun)
	h.upstream.opened.Add(1)
	h.upstream.handshake.observe(took)
	h.upstream.inFlight.Add(-1)
	return took
}

// Failed counts the failure.
func (h Handshake) Failed(stage string) {
	h.upstream.failures.add(stage)
	h.upstream.inFlight.Add(-1)
}

// Closed counts the end of a tunnel.
func (u *Upstream) Closed(by string, code int, lifetime time.Duration) {
	u.closed.add(Close{by, codeLabel(code)})
	u.lifetime.observe(lifetime)
}

// Responded counts a response to a request that opens no WebSocket, the relay's or
// one that stands for it.
func (u *Upstream) Responded(endpoint string, status int) {
	u.requests.add(Request{endpoint, class(status)})
}

// ResponseTook takes down how long the relay has had for such a response.
func (u *Upstream) ResponseTook(d time.Duration) { u.response.observe(d) }

// SetCertificateEnd takes down until when the relay's certificate is valid. The zero
// time changes nothing.
func (u *Upstream) SetCertificateEnd(notAfter time.Time) {
	if !notAfter.IsZero() {
		u.notAfter.Store(notAfter.Unix())
	}
}

// CertificateEnd returns until when the relay's certificate is valid, in Unix time. It
// is 0 while that is not known.
func (u *Upstream) CertificateEnd() (seconds int64) { return u.notAfter.Load() }

// HandshakesInFlight returns how many handshakes are under way.
func (u *Upstream) HandshakesInFlight() int64 { return u.inFlight.Load() }

// TunnelsOpened returns how many tunnels were ever opened.
func (u *Upstream) TunnelsOpened() uint64 { return u.opened.Load() }

// HandshakeFailures returns how many handshakes failed at each stage.
func (u *Upstream) HandshakeFailures() map[string]uint64 { return u.failures.load() }

// TunnelsClosed returns how many tunnels were closed in each way.
func (u *Upstream) TunnelsClosed() map[Close]uint64 { return u.closed.load() }

// Requests returns how many requests went in each way.
func (u *Upstream) Requests() map[Request]uint64 { return u.requests.load() }

// HandshakeTimes returns what handshakes took that opened a tunnel.
func (u *Upstream) HandshakeTimes() Distribution { return u.handshake.load() }

// ResponseTimes returns how long the relay has had for its other responses.
func (u *Upstream) ResponseTimes() Distribution { return u.response.load() }

// Lifetimes returns how long tunnels lived that have ended.
func (u *Upstream) Lifetimes() Distribution { return u.lifetime.load() }

// Sum adds up what was counted by labels.
func Sum[K comparable](counts map[K]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
