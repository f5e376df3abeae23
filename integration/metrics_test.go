package integration_test

import (
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// figures are the metrics of one upstream, and those of none, by series without the
// prefix and the upstream, such as tunnels or bytes_total{direction="to_relay"}.
type figures map[string]float64

var sample = regexp.MustCompile(`^caddy_watchrtc_proxy_(\w+?)\{(.*)\} (\S+)\n$`)

// figures scrapes a site that has scraped in it.
func (p *proxy) figures(t *testing.T, upstream string) figures {
	t.Helper()
	response, page := ask(t, p.client(t, http1), request(t, "GET", p.url("/metrics"), nil))
	wantStatus(t, response, http.StatusOK)
	return parseFigures(t, page, upstream)
}

func parseFigures(t *testing.T, page, upstream string) figures {
	t.Helper()
	all := make(figures)
	own := `upstream="` + upstream + `"`
	for line := range strings.Lines(page) {
		// There are those of all other tests, too.
		if !strings.Contains(line, own) && !strings.Contains(line, "_rejected_total{") {
			continue
		}
		match := sample.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		value, err := strconv.ParseFloat(match[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		labels := slices.DeleteFunc(strings.Split(match[2], ","), func(label string) bool { return label == own })
		series := match[1]
		if len(labels) > 0 {
			series += "{" + strings.Join(labels, ",") + "}"
		}
		all[series] = value
	}
	return all
}

// want checks figures; those that are not named must be those of before.
func (f figures) want(t *testing.T, before, want figures) {
	t.Helper()
	for _, difference := range f.differences(before, want) {
		t.Error(difference)
	}
}

func (f figures) differences(before, want figures) (all []string) {
	for series, now := range f {
		switch expected, ok := want[series]; {
		case ok && now != expected:
			all = append(all, fmt.Sprintf("%s is %v, want %v", series, now, expected))
		case !ok && now != before[series] && !takesTime.MatchString(series):
			all = append(all, fmt.Sprintf("%s is %v, and was %v", series, now, before[series]))
		}
	}
	for series := range want {
		if _, ok := f[series]; !ok {
			all = append(all, "there is no "+series)
		}
	}
	return all
}

// awaitFigures waits for figures: what a client has got already may be counted a
// moment later.
func (p *proxy) awaitFigures(t *testing.T, upstream string, before, want figures) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		now := p.figures(t, upstream)
		if len(now.differences(before, want)) == 0 {
			return
		}
		if time.Now().After(deadline) {
			now.want(t, before, want)
			return
		}
	}
}

// ofProcess are those that belong to no upstream: other tests have counted, too.
func (f figures) ofProcess() figures {
	own := maps.Clone(f)
	maps.DeleteFunc(own, func(series string, _ float64) bool { return !strings.HasPrefix(series, "rejected_total") })
	return own
}

// takesTime are the series whose value is how long something took.
var takesTime = regexp.MustCompile(`_seconds_(sum|bucket)|not_after`)

// scraped is a part of a site.
const scraped = "\nmetrics /metrics\n"

// server is a relay that accepts WebSockets and gives frames back, and responds to all
// else with the status that the query asks for.
type server struct {
	*wstest.Relay
	upstream string // unlike that of any other
}

var servers atomic.Int64

func newServer(t *testing.T) *server {
	r := rawRelay(t, serveRelay)
	return &server{r, fmt.Sprintf("wss://%s/%d", r.Addr, servers.Add(1))}
}

func serveRelay(c *wstest.Conn) {
	for {
		r, err := http.ReadRequest(c.R)
		if err != nil {
			return
		}
		if r.Header.Get("Upgrade") == "" || r.URL.Query().Has("status") {
			io.Copy(io.Discard, r.Body)
			c.WriteResponse(r.URL.Query().Get("status")+" Status", "relay")
			continue
		}
		c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
			"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
		giveBack(c)
		return
	}
}

func giveBack(c *wstest.Conn) {
	for {
		f, err := c.Next()
		if err != nil || c.Send(f) != nil {
			return
		}
		if f.Opcode == wstest.Close {
			c.CloseWrite()
			io.Copy(io.Discard, c.R)
			return
		}
	}
}

// close ends a WebSocket with a code.
func (c *tunnel) close(t *testing.T, code int) {
	t.Helper()
	c.send(t, wstest.CloseFrame(code))
	if f, err := c.frames.Next(); err != nil || f.Code() != code {
		t.Fatalf("%v, %v, want code %d", f, err, code)
	}
	c.closeWrite()
	io.Copy(io.Discard, c.r)
}

// awaitLines waits for n lines that hold all of words.
func (l *logs) awaitLines(t *testing.T, n int, words ...string) []string {
	t.Helper()
	for {
		lines, changed := l.matching(words...)
		if len(lines) >= n {
			return lines
		}
		await(t, changed, fmt.Sprintf("%d lines with %q", n, words))
	}
}

// TestMetricsFromTheStart: an upstream's metrics are there before anything has
// happened; when it has left the configuration, its gauges are gone, and the counters
// that have counted nothing.
func TestMetricsFromTheStart(t *testing.T) {
	relay := newServer(t)
	// Two handlers of one upstream are in no other's way.
	s := mount(relay.upstream)
	s.body += "\n" + directive("/again", relay.upstream) + scraped
	p := start(t, s)
	first := p.figures(t, relay.upstream)
	gauges := figures{"tunnels": 0, "handshakes_in_flight": 0, "upstream_up": 1, "draining": 0}
	counters := figures{
		"tunnels_opened_total": 0, "tunnel_duration_seconds_count": 0, "handshake_seconds_count": 0, "fallback_seconds_count": 0,
		`bytes_total{direction="to_relay"}`: 0, `bytes_total{direction="to_client"}`: 0,
		`frames_total{direction="to_relay"}`: 0, `frames_total{direction="to_client"}`: 0,
	}
	for _, stage := range []string{"dns", "connect", "tls", "timeout", "status", "invalid", "canceled"} {
		counters[fmt.Sprintf("handshake_failures_total{stage=%q}", stage)] = 0
	}
	for _, by := range []string{"client", "relay", "proxy"} {
		for _, code := range []string{"1000", "1001", "1005", "1006", "1011", "3000", "other"} {
			counters[fmt.Sprintf("tunnels_closed_total{by=%q,code=%q}", by, code)] = 0
		}
	}
	for _, endpoint := range []string{"trace", "error", "config", "other"} {
		for _, code := range []string{"2xx", "3xx", "4xx", "5xx"} {
			counters[fmt.Sprintf("fallback_requests_total{code=%q,endpoint=%q}", code, endpoint)] = 0
		}
	}
	maps.Copy(counters, gauges)
	first.want(t, first.ofProcess(), counters)
	for _, reason := range []string{"api_key", "body", "draining", "handshake", "loop", "max_tunnels", "max_tunnels_per_client", "origin"} {
		if _, ok := first[fmt.Sprintf("rejected_total{reason=%q}", reason)]; !ok {
			t.Errorf("nothing is rejected for %s", reason)
		}
	}
	for _, bucket := range []string{`handshake_seconds_bucket{le="0.005"}`, `handshake_seconds_bucket{le="15"}`,
		`tunnel_duration_seconds_bucket{le="1"}`, `tunnel_duration_seconds_bucket{le="86400"}`} {
		if _, ok := first[bucket]; !ok {
			t.Errorf("there is no %s", bucket)
		}
	}

	other := newServer(t)
	s = mount(other.upstream)
	s.body += scraped
	p.reload(t, s)
	last := p.figures(t, relay.upstream)
	for series := range counters { // none of which has counted anything
		if _, ok := last[series]; ok {
			t.Errorf("%s is still there", series)
		}
	}
	p.awaitFigures(t, other.upstream, last.ofProcess(), gauges)
}

// TestMetricOfMaxTunnels: the limit is the one at which the first clients are refused.
func TestMetricOfMaxTunnels(t *testing.T) {
	relay := newServer(t)
	s := mount(relay.upstream, "max_tunnels 7")
	s.body += "\n" + directive("/again", relay.upstream, "max_tunnels 5") + "\n" + directive("/more", relay.upstream) + scraped
	p := start(t, s)
	response, page := ask(t, p.client(t, http1), request(t, "GET", p.url("/metrics"), nil))
	wantStatus(t, response, http.StatusOK)
	if !strings.Contains(page, "\ncaddy_watchrtc_proxy_max_tunnels 5\n") {
		t.Error("max_tunnels is not 5")
	}
}

// TestMetricsOfTunnels: what the clients sent and got is what the metrics say, while
// the tunnels live, over a reload, and when they have ended.
func TestMetricsOfTunnels(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newServer(t)
		s := mount(relay.upstream)
		s.body += scraped
		p := start(t, s)
		before := p.figures(t, relay.upstream)
		const count = 3
		var clients []*tunnel
		for range count {
			c := p.open(t, protocol, target, "")
			wantStatus(t, c.Response, opened(protocol))
			c.send(t, wstest.Message("hello"))
			if f, err := c.frames.Next(); err != nil || string(f.Payload) != "hello" {
				t.Fatal(f, err)
			}
			clients = append(clients, c)
		}
		alive := figures{
			"tunnels": count, "tunnels_opened_total": count, "handshake_seconds_count": count,
			// Headers of 2 bytes, and keys of 4.
			`bytes_total{direction="to_relay"}`: count * (2 + 4 + 5), `bytes_total{direction="to_client"}`: count * (2 + 5),
			`frames_total{direction="to_relay"}`: count, `frames_total{direction="to_client"}`: count,
		}
		p.awaitFigures(t, relay.upstream, before, alive)
		s.body += "\nrespond /new 204"
		p.reload(t, s)
		p.awaitFigures(t, relay.upstream, before, alive)

		clients[0].close(t, 1000)
		clients[1].close(t, 4321)
		clients[2].reset()
		p.logs.awaitLines(t, count, `"tunnel closed"`, relay.upstream)
		ended := figures{
			"tunnels": 0, "tunnels_opened_total": count, "handshake_seconds_count": count, "tunnel_duration_seconds_count": count,
			`bytes_total{direction="to_relay"}`:              count*(2+4+5) + 2*(2+4+2),
			`bytes_total{direction="to_client"}`:             count*(2+5) + 2*(2+2),
			`frames_total{direction="to_relay"}`:             count + 2,
			`frames_total{direction="to_client"}`:            count + 2,
			`tunnels_closed_total{by="client",code="1000"}`:  1,
			`tunnels_closed_total{by="client",code="other"}`: 1,
			`tunnels_closed_total{by="client",code="1006"}`:  1,
		}
		p.awaitFigures(t, relay.upstream, before, ended)
	})
}

// TestMetricsNeverGoBack scrapes while tunnels come and go, are cut off, and their
// upstream leaves and comes back.
func TestMetricsNeverGoBack(t *testing.T) {
	relay, other := newServer(t), newServer(t)
	with := mount(relay.upstream)
	with.body += scraped
	without := mount(other.upstream)
	without.body += scraped
	p := start(t, with)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range 2 {
		client := p.client(t, http1)
		running.Go(func() {
			last := make(figures)
			for {
				select {
				case <-stop:
					return
				default:
				}
				page := tryScrape(client, p.url("/metrics"))
				if page == "" {
					continue
				}
				now := parseFigures(t, page, relay.upstream)
				for series, value := range last {
					if _, ok := now[series]; ok && strings.Contains(series, "_total") && value > now[series] {
						t.Errorf("%s was %v and is %v", series, value, now[series])
					}
				}
				last = now
			}
		})
	}
	for i := range 12 {
		c := p.open(t, http1, target, "")
		if c.StatusCode == http.StatusSwitchingProtocols {
			c.send(t, wstest.Message(strings.Repeat("x", 10_000)))
		}
		switch i % 4 {
		case 0:
			c.reset()
		case 1:
			p.reload(t, without)
			p.reload(t, with)
		}
	}
	close(stop)
	running.Wait()
}

// tryScrape returns nothing if the connection ends with its configuration.
func tryScrape(client *http.Client, url string) string {
	response, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		return ""
	}
	return string(page)
}

// TestMetricsOfRequests: requests by what they are for and the class of their
// response, and those that were refused by why.
func TestMetricsOfRequests(t *testing.T) {
	relay := newServer(t)
	s := mount(relay.upstream, "max_body_size 64KiB")
	s.body += "\n" + directive("/dead", "wss://"+wstest.DeadAddr(t)) + scraped
	p := start(t, s)
	before := p.figures(t, relay.upstream)
	client := p.client(t, http1)
	for _, path := range []string{"/trace?status=200", "//trace?status=200", "/trace?status=503", "/error?status=404",
		"/get-qualityrtc-config?apiKey=" + secret + "&status=302", "/else?status=201"} {
		ask(t, client, request(t, "POST", p.url("/websocket"+path), strings.NewReader("{}")))
	}
	for name, fields := range map[string][]string{
		"a preflight": {"OPTIONS", "/trace?status=204", "Origin: https://app.example", "Access-Control-Request-Method: POST"},
		"a version":   {"GET", "?", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: " + wstest.SampleKey},
		"a key":       {"GET", "?", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"},
	} {
		c := p.dial(t)
		if err := c.WriteRequest(fields[0], "/websocket"+fields[1], fields[2:]...); err != nil {
			t.Fatal(name, err)
		}
		if _, err := c.ReadResponse(fields[0]); err != nil {
			t.Fatal(name, err)
		}
	}
	response, _ := ask(t, client, request(t, "POST", p.url("/websocket/trace"), strings.NewReader(strings.Repeat("x", 65<<10))))
	wantStatus(t, response, http.StatusRequestEntityTooLarge)
	after := p.figures(t, relay.upstream)
	after.want(t, before, figures{
		`fallback_requests_total{code="2xx",endpoint="trace"}`:  2,
		`fallback_requests_total{code="5xx",endpoint="trace"}`:  1,
		`fallback_requests_total{code="4xx",endpoint="error"}`:  1,
		`fallback_requests_total{code="3xx",endpoint="config"}`: 1,
		`fallback_requests_total{code="2xx",endpoint="other"}`:  2,
		"fallback_seconds_count":                                7,
		`rejected_total{reason="handshake"}`:                    before[`rejected_total{reason="handshake"}`] + 2,
		`rejected_total{reason="body"}`:                         before[`rejected_total{reason="body"}`] + 1,
	})
	if seconds := after["upstream_certificate_not_after_seconds"]; int64(seconds) != leaf.TLS.Leaf.NotAfter.Unix() {
		t.Errorf("the certificate ends at %v", seconds)
	}
}

// TestCertificateBehindForwardProxy: the certificate in the metrics is the relay's, not
// that of a forward proxy, also where that is all there is.
func TestCertificateBehindForwardProxy(t *testing.T) {
	leaf := authority.Issue("127.0.0.1")
	relay := wstest.NewRelay(t, leaf.ServerConfig(), func(c *wstest.Conn) {
		if _, err := c.ReadRequest(); err == nil {
			c.WriteResponse("200 OK", "relay")
		}
	})
	between := authority.IssueWith(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(-time.Hour) }, "127.0.0.1")
	forward := forwardProxyOver(t, between.ServerConfig(), make(chan string, 4))
	down := "wss://" + wstest.DeadAddr(t)
	options := transport("network_proxy url https://" + forward.Addr)
	s := mount("wss://"+relay.Addr, options)
	s.body += "\n" + directive("/down", down, options) + scraped
	p := start(t, s)
	for _, test := range []struct {
		mount, upstream string
		fields          []string
		status          int
		ends            int64
	}{
		{"/down", down, nil, http.StatusBadGateway, 0},
		{"/down", down, wstest.HandshakeFields(wstest.SampleKey), http.StatusBadGateway, 0},
		{"/websocket", "wss://" + relay.Addr, nil, http.StatusOK, leaf.TLS.Leaf.NotAfter.Unix()},
		{"/websocket", "wss://" + relay.Addr, wstest.HandshakeFields(wstest.SampleKey), http.StatusOK, leaf.TLS.Leaf.NotAfter.Unix()},
	} {
		c := p.dial(t)
		if err := c.WriteRequest("GET", test.mount+"/get-qualityrtc-config", test.fields...); err != nil {
			t.Fatal(err)
		}
		response, err := c.ReadResponse("GET")
		if err != nil {
			t.Fatal(err)
		}
		wantStatus(t, response, test.status)
		if seconds := p.figures(t, test.upstream)["upstream_certificate_not_after_seconds"]; int64(seconds) != test.ends {
			t.Errorf("%s: the certificate ends at %d, want %d", test.mount, int64(seconds), test.ends)
		}
	}
}

// TestMetricsOfALoop: a request that comes back is refused, and counted so.
func TestMetricsOfALoop(t *testing.T) {
	var p *proxy
	front := rawRelay(t, func(c *wstest.Conn) { // leads back to the proxy
		r, err := c.ReadRequest()
		if err != nil {
			return
		}
		again := p.dial(t)
		again.WriteRequest("POST", "/websocket/trace", "CDN-Loop: "+r.Header.Get("CDN-Loop"), "Content-Length: 0")
		response, err := again.ReadResponse("POST")
		if err != nil {
			t.Error(err)
			return
		}
		c.WriteResponse(response.Status, "")
	})
	s := mount(https(front))
	s.body += scraped
	p = start(t, s)
	before := p.figures(t, "")
	response, _ := ask(t, p.client(t, http1), request(t, "POST", p.url("/websocket/trace"), nil))
	wantStatus(t, response, http.StatusLoopDetected)
	p.awaitFigures(t, "", before, figures{`rejected_total{reason="loop"}`: before[`rejected_total{reason="loop"}`] + 1})
}

// TestMetricsOfFailures: handshakes that fail, by how far they got, and whether the
// relay is up by that.
func TestMetricsOfFailures(t *testing.T) {
	silent := rawRelay(t, func(c *wstest.Conn) { io.Copy(io.Discard, c.R) })
	noTLS := wstest.NewRelay(t, nil, func(c *wstest.Conn) { c.WriteText("SSH-2.0-relay\r\n") })
	hangsUp := rawRelay(t, func(c *wstest.Conn) { c.ReadRequest() })
	refuses := newServer(t)
	for stage, test := range map[string]struct {
		upstream, target string
		options          []string
		up               float64
	}{
		"dns":     {"wss://relay.invalid", target, []string{transport("resolvers 127.0.0.1:1")}, 0},
		"connect": {"wss://" + wstest.DeadAddr(t), target, nil, 0},
		"tls":     {"wss://" + noTLS.Addr, target, nil, 0},
		"timeout": {"wss://" + silent.Addr, target, []string{"handshake_timeout 100ms"}, 0},
		"status":  {refuses.upstream, target + "&status=404", nil, 1},
		"invalid": {"wss://" + hangsUp.Addr, target, nil, 1},
	} {
		t.Run(stage, func(t *testing.T) {
			s := mount(test.upstream, test.options...)
			s.body += scraped
			p := start(t, s)
			before := p.figures(t, test.upstream)
			p.open(t, http1, test.target, "")
			series := fmt.Sprintf("handshake_failures_total{stage=%q}", stage)
			p.awaitFigures(t, test.upstream, before, figures{series: before[series] + 1, "upstream_up": test.up})
		})
	}
}

// TestMetricsOfACanceledHandshake: a client that does not wait for the relay's
// response says nothing about the relay.
func TestMetricsOfACanceledHandshake(t *testing.T) {
	asked, givenUp := make(chan struct{}), make(chan struct{})
	relay := rawRelay(t, func(c *wstest.Conn) {
		c.ReadRequest()
		close(asked)
		io.Copy(io.Discard, c.R)
		close(givenUp)
	})
	upstream := "wss://" + relay.Addr
	s := mount(upstream)
	s.body += scraped
	p := start(t, s)
	before := p.figures(t, upstream)
	c := p.dial(t)
	c.WriteRequest("GET", target, wstest.HandshakeFields(wstest.NewKey())...)
	await(t, asked, "handshake")
	p.awaitFigures(t, upstream, before, figures{"handshakes_in_flight": 1})
	c.Drop()
	await(t, givenUp, "end of the relay's connection")
	for {
		if now := p.figures(t, upstream); now["handshakes_in_flight"] == 0 {
			now.want(t, before, figures{`handshake_failures_total{stage="canceled"}`: before[`handshake_failures_total{stage="canceled"}`] + 1})
			return
		}
	}
}

// gate is in front of a relay, which cannot be reached while it is shut.
type gate struct {
	net.Listener
	shut atomic.Bool
}

func newGate(t *testing.T, relay string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: ln}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { g.pass(conn, relay) })
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return g
}

func (g *gate) pass(conn net.Conn, relay string) {
	defer conn.Close()
	if g.shut.Load() {
		return
	}
	inner, err := net.Dial("tcp", relay)
	if err != nil {
		return
	}
	defer inner.Close()
	go func() { io.Copy(inner, conn); inner.Close() }()
	io.Copy(conn, inner)
}

// TestRelayDownAndBack: a relay that cannot be reached is down until it responds.
func TestRelayDownAndBack(t *testing.T) {
	relay := newServer(t)
	g := newGate(t, relay.Addr)
	upstream := "wss://" + g.Addr().String()
	s := mount(upstream, transport("keepalive off")) // each request connects
	s.body += scraped
	p := start(t, s)
	post := func(want int, up float64) {
		t.Helper()
		response, _ := ask(t, p.client(t, http1), request(t, "POST", p.url("/websocket/trace?status=503"), strings.NewReader("{}")))
		wantStatus(t, response, want)
		if got := p.figures(t, upstream)["upstream_up"]; got != up {
			t.Errorf("up: %v, want %v", got, up)
		}
	}
	post(http.StatusServiceUnavailable, 1)
	g.shut.Store(true)
	for range 3 {
		post(http.StatusBadGateway, 0)
	}
	g.shut.Store(false)
	post(http.StatusServiceUnavailable, 1)
	p.logs.await(t, `"level":"warn"`, `"relay failed"`, upstream, `"stage":"tls"`, `"count":1`, `"up":false`)
	p.logs.await(t, `"level":"info"`, `"relay is back"`, upstream, `"failures":3`, `"down_for":`)
}

// TestShortageIsNotDown: what this machine lacks for a connection is no news of the relay.
func TestShortageIsNotDown(t *testing.T) {
	upstream := "wss://" + wstest.DeadAddr(t)
	s := mount(upstream, transport("local_address 192.0.2.1")) // RFC 5737: nobody's
	s.body += scraped
	p := start(t, s)
	response, _ := ask(t, p.client(t, http1), request(t, "POST", p.url("/websocket/trace"), strings.NewReader("{}")))
	wantStatus(t, response, http.StatusBadGateway)
	if got := p.figures(t, upstream)["upstream_up"]; got != 1 {
		t.Errorf("up: %v, want 1", got)
	}
	p.logs.await(t, `"level":"warn"`, `"relay failed"`, upstream, `"stage":"connect"`, "assign requested address", `"up":true`)
}

// TestHandshakeTimeoutIsTheReason: a relay that accepts connections and says nothing fails
// by handshake_timeout, however many wait for it, and not by a limit of the transport's.
func TestHandshakeTimeoutIsTheReason(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // connections wait to be accepted
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	upstream := "wss://" + ln.Addr().String()
	s := mount(upstream, "handshake_timeout 100ms")
	s.body += scraped
	p := start(t, s)
	var clients []*conn
	for range 50 {
		c := p.dial(t)
		c.request("GET", "/websocket?apiKey=k", wstest.HandshakeFields(wstest.SampleKey)...)
		clients = append(clients, c)
	}
	for _, c := range clients {
		c.wantStatus(c.response("GET"), http.StatusGatewayTimeout)
	}
	if got := p.figures(t, upstream)[`handshake_failures_total{stage="timeout"}`]; got != float64(len(clients)) {
		t.Errorf("%v failures by timeout, want %d", got, len(clients))
	}
}

// TestPlaceholders: what access logs can have of a handshake.
func TestPlaceholders(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newServer(t)
		s := mount(relay.upstream)
		s.body = `log_append relay {http.watchrtc_proxy.upstream}
			log_append tunnel_id {http.watchrtc_proxy.tunnel_id}
			log_append handshake {http.watchrtc_proxy.handshake_duration}
			log {
				output watchrtc_integration
				format filter {
					request>uri query {
						replace apiKey REDACTED
					}
				}
			}
		` + s.body
		p := start(t, s)
		c := p.open(t, protocol, target, "")
		c.close(t, 1000)
		closed := p.logs.awaitLines(t, 1, `"tunnel closed"`, relay.upstream)[0]
		id := regexp.MustCompile(`"tunnel":(\d+)`).FindStringSubmatch(closed)[1]
		p.logs.await(t, `"handled request"`, fmt.Sprintf(`"relay":%q`, relay.upstream), `"tunnel_id":`+id, `"handshake":0.`)
	})
}

// TestObservabilityTable: docs/observability.md has each metric, and no other.
func TestObservabilityTable(t *testing.T) {
	doc, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (?:gauge|counter|histogram)").FindAllSubmatch(doc, -1) {
		listed[string(row[1])] = true
	}
	relay := newServer(t)
	s := mount(relay.upstream)
	s.body += scraped
	p := start(t, s)
	p.open(t, http1, target, "").close(t, 1000) // or there is no certificate yet
	_, page := ask(t, p.client(t, http1), request(t, "GET", p.url("/metrics"), nil))
	there := make(map[string]bool)
	for _, match := range regexp.MustCompile(`(?m)^# TYPE caddy_watchrtc_proxy_(\w+) `).FindAllStringSubmatch(page, -1) {
		there[match[1]] = true
	}
	if !maps.Equal(listed, there) {
		t.Errorf("listed are %v, there are %v", listed, there)
	}
}
