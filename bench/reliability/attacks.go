package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
)

// attack is something hostile that a client or a relay does. What became of it is said
// in a few words, so that contestants can be compared.
type attack struct {
	by, what string
	ours     string // what must become of it where it meets ours
	relay    func(*exchange)
	client   func(*arena) (outcome string, err error)
}

// attackResult is what became of an attack.
type attackResult struct {
	Contestant string  `json:"contestant"`
	By         string  `json:"by"`
	Attack     string  `json:"attack"`
	Outcome    string  `json:"outcome"`
	Want       string  `json:"want,omitempty"` // of ours
	Bystander  float64 `json:"bystander_worst_ms"`
	Growth     int64   `json:"growth_bytes"`
}

// arena is one contestant, in front of the hostile relay.
type arena struct {
	ctx    context.Context
	proxy  *contestant.Process
	relay  *hostileRelay
	target load.Target
	drops  int // handshakes
}

// bystanders are how many tunnels send a message each 20 ms while others attack.
const bystanders = 4

// attacks has one process attacked in each way, one after another.
func (y *yard) attacks(ctx context.Context, c contestant.Contestant) error {
	relay, err := startHostileRelay(y.lab)
	if err != nil {
		return err
	}
	defer relay.stop()
	proxy, err := y.lab.Start(ctx, c, relay.addr())
	if err != nil {
		return err
	}
	defer proxy.Stop()
	a := &arena{ctx: ctx, proxy: proxy, relay: relay, drops: y.size.drops, target: load.NewTarget(proxy.Addr, contestant.ProxyName, y.lab.Certs.Pool)}
	quiet, err := load.OpenQuiet(ctx, a.target, bystanders)
	if err != nil {
		return proxy.Explain(err)
	}
	defer quiet.Close()
	for i := range allAttacks {
		r, err := a.suffer(&allAttacks[i], quiet)
		if err != nil {
			return fmt.Errorf("%s: %w", allAttacks[i].what, proxy.Explain(err))
		}
		r.Contestant = c.Name
		if isOurs(c.Name) {
			r.Want = allAttacks[i].ours
		}
		y.results.Attacks = append(y.results.Attacks, r)
	}
	return nil
}

// suffer runs an attack while bystanders send messages.
func (a *arena) suffer(attack *attack, quiet *load.Quiet) (attackResult, error) {
	a.relay.expect(attack)
	r := attackResult{By: attack.by, Attack: attack.what}
	before, err := a.proxy.PSS()
	if err != nil {
		return r, err
	}
	over := make(chan error, 1)
	go func() {
		var err error
		r.Outcome, err = attack.client(a)
		over <- err
	}()
	worst, peak := time.Duration(0), before
	for {
		for _, trips := range quiet.Probe(a.ctx, 20*time.Millisecond, 100*time.Millisecond) {
			if trips.Err != nil {
				return r, errors.Join(fmt.Errorf("a bystander: %w", trips.Err), <-over)
			}
			for _, trip := range trips.Times {
				worst = max(worst, trip)
			}
		}
		memory, err := a.proxy.PSS()
		if err != nil {
			return r, err
		}
		peak = max(peak, memory)
		select {
		case err := <-over:
			r.Bystander, r.Growth = worst.Seconds()*1e3, peak-before
			return r, err
		default:
		}
	}
}

// path of all requests.
const path = "/attack"

// longest is how long a client waits for a response.
const longest = 12 * time.Second

func (a *arena) dial() (*wstest.Conn, error) {
	conn, err := wstest.Dialer{TLS: a.target.TLS}.Dial(a.ctx, "tcp", a.target.Addr)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(longest))
}

// reply is what a client sees.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // of the connection, or of the body
}

// String is the status, or why there is none.
func (r reply) String() string {
	switch {
	case r.status != 0:
		return fmt.Sprint(r.status)
	case wstest.IsReset(r.err), errors.Is(r.err, io.EOF), errors.Is(r.err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return "no response"
}

// ask sends the head of a request and more text over a new connection.
func (a *arena) ask(method, text string, fields ...string) (reply, error) {
	conn, err := a.dial()
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	return a.askOver(conn, method, text, fields...), nil
}

func (a *arena) askOver(conn *wstest.Conn, method, text string, fields ...string) reply {
	fields = append(fields, "Host: "+contestant.ProxyName)
	// A proxy may respond, and close, before it has all.
	writing := make(chan error, 1)
	go func() { writing <- conn.WriteText(wstest.RequestHead(method, path, fields...) + text) }()
	response, err := conn.ReadResponse(method)
	if err != nil {
		return reply{err: err}
	}
	r := reply{status: response.StatusCode, header: response.Header}
	if r.status < http.StatusOK {
		return r
	}
	body, err := io.ReadAll(response.Body)
	r.body, r.err = string(body), err
	return r
}

// upgrade asks for a WebSocket.
func (a *arena) upgrade(fields ...string) (reply, error) {
	return a.ask("GET", "", append(wstest.HandshakeFields(wstest.NewKey()), fields...)...)
}

// fault says what ours did and should not do.
func (r attackResult) fault() string {
	if r.Want == "" || r.Outcome == r.Want {
		return ""
	}
	return fmt.Sprintf("%s, want %s", r.Outcome, r.Want)
}

// String marks what ours should not do.
func (r attackResult) String() string {
	if r.fault() != "" {
		return r.Outcome + " ✗"
	}
	return r.Outcome
}

// writeAttacks puts the contestants side by side.
func (r *results) writeAttacks(b *strings.Builder) {
	var names []string
	outcomes := map[string]map[string]attackResult{}
	worst := map[string]attackResult{}
	for _, result := range r.Attacks {
		if outcomes[result.Attack] == nil {
			outcomes[result.Attack] = map[string]attackResult{}
		}
		if _, ok := worst[result.Contestant]; !ok {
			names = append(names, result.Contestant)
		}
		outcomes[result.Attack][result.Contestant] = result
		if result.Bystander >= worst[result.Contestant].Bystander {
			worst[result.Contestant] = result
		}
	}
	writeHeader(b, append([]string{"by", "attack"}, names...)...)
	for _, attack := range allAttacks {
		cells := []string{attack.by, attack.what}
		for _, name := range names {
			result := outcomes[attack.what][name]
			cells = append(cells, result.String())
		}
		writeRow(b, cells...)
	}
	cells := []string{"", "worst round trip of a bystander, ms"}
	for _, name := range names {
		cells = append(cells, number(worst[name].Bystander))
	}
	writeRow(b, cells...)
	b.WriteByte('\n')
}
