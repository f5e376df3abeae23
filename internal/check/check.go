// Package check is what `caddy watchrtc-check` does: it goes the way of the SDK from
// name to relay, step by step, and says which step fails, why, and what to do.
//
// The server is not trusted: each step is bounded in time and in what it reads, and
// of what the server sends only a short, printable part is repeated. It knows nothing
// of Caddy.
package check

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// DefaultTimeout is how long the SDK waits for a WebSocket.
const DefaultTimeout = 15 * time.Second

// Options say what is checked.
type Options struct {
	// URL is the SDK's proxyUrl, as ParseURL returns it.
	URL *url.URL

	// APIKey and Token are the SDK's; empty where there is none. With neither, what
	// the relay says to a client is not tested.
	APIKey, Token string

	// Origin is that of the pages with the SDK, such as https://app.example.com.
	// Empty: requests have none, as those of the SDKs for phones, and CORS is not
	// tested.
	Origin string

	// Insecure goes on where the certificate is not trusted.
	Insecure bool

	// Timeout bounds each step, and each request within a step. Default: 15 s.
	// Resolving and connecting get a third of it.
	Timeout time.Duration

	// Watch, unless nil, is called when a step begins, with its name alone, and
	// again with its result. It is called by one goroutine at a time.
	Watch func(Step)

	// For tests. Roots are the authorities to trust, the system's if nil.
	Roots  *x509.CertPool
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Now    func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Watch == nil {
		o.Watch = func(Step) {}
	}
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// The names of the steps, in their order. There is a StepConnect for each address.
const (
	StepResolve   = "resolve"
	StepConnect   = "connect"
	StepTLS       = "tls"
	StepWebSocket = "websocket"
	StepGreeting  = "greeting"
	StepTrace     = "trace"
	StepPreflight = "preflight"
	StepConfig    = "config"
)

// Run checks. When ctx ends, what is under way fails.
func Run(ctx context.Context, options Options) Report {
	r := &run{Options: options.withDefaults()}
	r.report.URL = r.URL.String()
	r.step(ctx, StepResolve, r.resolve)
	r.connectAll(ctx)
	r.step(ctx, StepTLS, r.secure)
	r.step(ctx, StepWebSocket, r.webSocket)
	r.step(ctx, StepGreeting, r.greeting)
	r.close()
	r.step(ctx, StepTrace, r.trace)
	r.step(ctx, StepPreflight, r.preflight)
	r.step(ctx, StepConfig, r.config)
	return r.report
}

// run is one check under way.
type run struct {
	Options
	report Report

	addrs []netip.AddrPort // of the name
	addr  netip.AddrPort   // the first that could be connected to
	conn  net.Conn         // to addr, for the next step; nil if there is none
	open  *exchange        // the WebSocket that greeting reads; nil if there is none

	// needs is the failed step without which no later one makes sense; empty while
	// they do.
	needs string
}

// result is how a step went. One that has failed names the mistake, in a few words.
type result struct {
	status  Status
	mistake string
	seen    string // what shows it
	hint    string // what to do

	// final: no later step makes sense.
	final bool
}

func passed(seen string) result          { return result{status: OK, seen: seen} }
func notTested(seen, hint string) result { return result{status: NotTested, seen: seen, hint: hint} }
func failed(mistake, seen, hint string) result {
	return result{status: Failed, mistake: mistake, seen: seen, hint: hint}
}

func (r result) andFinal() result {
	r.final = true
	return r
}

// step runs one step, unless it needs one that has failed.
func (r *run) step(ctx context.Context, name string, test func(context.Context) result) {
	if r.needs != "" {
		r.add(name, notTested("needs "+r.needs, ""), 0)
		return
	}
	r.Watch(Step{Name: name})
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	began := time.Now()
	result := test(ctx)
	took := time.Since(began)
	if result.status == NotTested {
		took = 0
	}
	r.add(name, result, took)
	if result.final {
		r.needs = name
	}
}

func (r *run) add(name string, result result, took time.Duration) {
	step := Step{Name: name, Status: result.status, Hint: result.hint, Detail: result.seen, Took: took, mistake: result.mistake}
	switch {
	case result.mistake != "" && result.seen != "":
		step.Detail = result.mistake + ": " + result.seen
	case result.mistake != "":
		step.Detail = result.mistake
	}
	r.report.Steps = append(r.report.Steps, step)
	r.Watch(step)
}

func (r *run) close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
	if r.open != nil {
		r.open.close()
		r.open = nil
	}
}
