package integration_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// acceptAll is a relay that takes every WebSocket and answers its Close frame.
func acceptAll(t *testing.T) (relay *wstest.Relay, accepted *atomic.Int64) {
	t.Helper()
	accepted = new(atomic.Int64)
	return rawRelay(t, func(c *wstest.Conn) {
		for {
			r, err := c.ReadRequest()
			if err != nil {
				return
			}
			accepted.Add(1)
			if r.Header.Get("Upgrade") == "" {
				c.WriteResponse("200 OK", "relay")
				continue
			}
			c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
			for {
				f, err := c.Frames.Next()
				if err != nil {
					return
				}
				if f.Opcode == wstest.Close {
					c.Write(wstest.Encode(false, f))
					return
				}
			}
		}
	}), accepted
}

// leave closes a WebSocket and waits until the proxy has seen it end.
func leave(t *testing.T, client *tunnel) {
	t.Helper()
	client.send(t, wstest.CloseFrame(1000))
	if f, err := client.frames.Next(); err != nil || f.Opcode != wstest.Close {
		t.Errorf("%s, %v, want a Close frame", f, err)
	}
	client.closeWrite()
	io.Copy(io.Discard, client.r)
}

func retryAfter(t *testing.T, response *http.Response) int {
	t.Helper()
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil {
		t.Errorf("Retry-After: %v", err)
	}
	return seconds
}

// TestAdmission refuses for each reason and by each protocol, before the relay is asked.
func TestAdmission(t *testing.T) {
	relay, accepted := acceptAll(t)
	const app, evil = "Origin: https://app.example", "Origin: https://evil.example"
	body := strings.Join([]string{
		directive("/origins", https(relay), "origins https://app.example none"),
		directive("/keys", https(relay), "api_keys good tokens"),
		directive("/both", https(relay), "origins https://app.example", "api_keys good"),
		directive("/one", https(relay), "max_tunnels_per_client 1"),
		directive("/full", https(relay), "max_tunnels 1"),
		directive("/first", https(relay), "max_tunnels 1", "max_tunnels_per_client 1", "api_keys good", "origins https://app.example"),
		directive("/any", https(relay)),
	}, "\n")
	p := start(t, site{body: body + scraped}.over(http3x))
	before := p.figures(t, "")
	held := p.open(t, http1, "/any", "", "X-Forwarded-For: 192.0.2.1")
	wantStatus(t, held.Response, http.StatusSwitchingProtocols)
	asked := accepted.Load()

	refusals := []struct {
		name, target string
		fields       []string
		status       int
		readable     bool // by page code
		reason       string
	}{
		{"origin", "/origins", []string{evil}, 403, false, "origin"},
		{"origin null", "/origins", []string{"Origin: null"}, 403, false, "origin"},
		{"origin of a subdomain", "/origins", []string{"Origin: https://x.app.example"}, 403, false, "origin"},
		{"key", "/keys?apiKey=bad", []string{app}, 403, true, "api_key"},
		{"key missing", "/keys", []string{app}, 403, true, "api_key"},
		{"two keys", "/keys?apiKey=good&apiKey=bad", []string{app}, 403, true, "api_key"},
		{"key and token", "/keys?apiKey=good&token=t", []string{app}, 403, true, "api_key"},
		{"semicolon", "/keys?x=1;apiKey=bad&apiKey=good", []string{app}, 403, true, "api_key"},
		{"bad escape", "/keys?apiKey=good&x=%zz", []string{app}, 403, true, "api_key"},
		{"origin comes before key", "/both?apiKey=bad", []string{evil}, 403, false, "origin"},
		{"key of an origin", "/both?apiKey=bad", []string{app}, 403, true, "api_key"},
		{"per client", "/one", []string{app, "X-Forwarded-For: 192.0.2.1"}, 429, true, "max_tunnels_per_client"},
		{"per client, behind others", "/one", []string{app, "X-Forwarded-For: 203.0.113.7, 192.0.2.1, 10.0.0.1"}, 429, true, "max_tunnels_per_client"},
		{"total", "/full", []string{app}, 503, true, "max_tunnels"},
		{"client comes before total", "/first?apiKey=good", []string{app, "X-Forwarded-For: 192.0.2.1"}, 429, true, "max_tunnels_per_client"},
		{"key comes before client", "/first?apiKey=bad", []string{app, "X-Forwarded-For: 192.0.2.1"}, 403, true, "api_key"},
	}
	taken := []struct {
		target string
		fields []string
	}{
		{"/origins", []string{app}}, {"/origins", nil},
		{"/keys?apiKey=good", []string{evil}}, {"/keys?token=t", nil}, {"/both?apiKey=good", []string{app}},
		{"/one", []string{"X-Forwarded-For: 192.0.2.2"}}, {"/one", []string{"X-Forwarded-For: 192.0.2.1, 198.51.100.1"}},
	}
	want := make(figures)
	for _, protocol := range []string{http1, http2x, http3x} {
		t.Run(protocol, func(t *testing.T) {
			for _, refusal := range refusals {
				t.Run(refusal.name, func(t *testing.T) {
					client := p.open(t, protocol, refusal.target, "", refusal.fields...)
					wantStatus(t, client.Response, refusal.status)
					origin, vary := "", ""
					if refusal.readable {
						origin, vary = "https://app.example", "Origin"
					}
					wantField(t, client.Header, "Access-Control-Allow-Origin", origin)
					wantField(t, client.Header, "Vary", vary)
					if refusal.status == 403 {
						wantField(t, client.Header, "Retry-After", "")
					} else if s := retryAfter(t, client.Response); s < 10 || 20 < s {
						t.Errorf("Retry-After %d, want 10 to 20", s)
					}
					client.reset()
					want[fmt.Sprintf("rejected_total{reason=%q}", refusal.reason)]++
				})
			}
			if n := accepted.Load(); n != asked {
				t.Fatalf("the relay was asked %d times by clients that are refused", n-asked)
			}
			for _, request := range taken {
				client := p.open(t, protocol, request.target, "", request.fields...)
				if client.StatusCode != opened(protocol) {
					t.Errorf("%v: status %d", request, client.StatusCode)
					continue
				}
				leave(t, client)
			}
			asked = accepted.Load()
		})
	}
	leave(t, held)
	after := p.figures(t, "")
	for series, n := range want {
		if counted := after[series] - before[series]; counted != n {
			t.Errorf("%s has grown by %v, want %v", series, counted, n)
		}
	}
}

// TestAdmissionOfRequests: what is no WebSocket needs the origin, and a key only where
// the SDK sends one. Preflights are let through for origins that are.
func TestAdmissionOfRequests(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, "origins https://app.example", "api_keys good", "refuse_with greeting", "max_tunnels 1"))
	const app, evil = "Origin: https://app.example", "Origin: https://evil.example"
	const preflight = "Access-Control-Request-Method: GET"
	overHTTP(t, func(t *testing.T, protocol string) {
		client := p.client(t, protocol)
		for _, test := range []struct {
			method, target string
			fields         []string
			status         int
			relayed, cors  bool
		}{
			{"POST", "/trace", []string{app}, 200, true, false},
			{"POST", "/error", []string{app}, 200, true, false},
			{"POST", "/trace", []string{evil}, 403, false, false},
			{"POST", "/trace", nil, 403, false, false},
			{"GET", "/get-qualityrtc-config?apiKey=good", []string{app}, 200, true, false},
			{"GET", "/get-qualityrtc-config?apiKey=bad", []string{app}, 403, false, true},
			{"GET", "/get-qualityrtc-confi%67/?apiKey=bad", []string{app}, 403, false, true},
			{"GET", "/get-qualityrtc-config?apiKey=good", []string{evil}, 403, false, false},
			{"GET", "/get-qualityrtc-config?apiKey=good", []string{"Sec-Fetch-Site: same-origin"}, 403, false, false},
			{"GET", "/get-qualityrtc-config?apiKey=good", []string{"Sec-Fetch-Site: same-origin", "Host: app.example"}, 200, true, false},
			{"OPTIONS", "/trace", []string{app, preflight}, 200, true, false},
			{"OPTIONS", "/trace", []string{evil, preflight}, 403, false, false},
			{"OPTIONS", "/get-qualityrtc-config?apiKey=bad", []string{app, preflight}, 204, false, true},
		} {
			response, _ := ask(t, client, request(t, test.method, p.url("/websocket"+test.target), nil, test.fields...))
			if response.StatusCode != test.status {
				t.Errorf("%s %s %q: status %d, want %d", test.method, test.target, test.fields, response.StatusCode, test.status)
			}
			if test.relayed {
				relay.next(t)
				continue
			}
			relay.wantNoRequest(t)
			for field := range response.Header {
				if !test.cors && (strings.HasPrefix(field, "Access-Control-") || field == "Vary") {
					t.Errorf("%s %s %q: %s", test.method, test.target, test.fields, field)
				}
			}
			if test.cors {
				wantField(t, response.Header, "Access-Control-Allow-Origin", "https://app.example")
			}
		}
	})
}

// TestOriginOfRefusals: pages of other origins can read no refusal, whatever it is for,
// and one that is named twice is another.
func TestOriginOfRefusals(t *testing.T) {
	relay, accepted := acceptAll(t)
	p := start(t, mount(https(relay), "origins https://app.example"))
	const app, oldVersion = "Origin: https://app.example", "Sec-WebSocket-Version: 12"
	for _, test := range []struct {
		fields []string
		status int
		cors   string
	}{
		{[]string{app, oldVersion}, 426, "https://app.example"},
		{[]string{"Origin: https://evil.example", oldVersion}, 426, ""},
		{[]string{app, app}, 403, ""},
		{[]string{app, "Origin: https://evil.example", oldVersion}, 426, ""},
	} {
		c := p.open(t, http1, target, "", test.fields...)
		wantStatus(t, c.Response, test.status)
		wantField(t, c.Header, "Access-Control-Allow-Origin", test.cors)
	}
	if accepted.Load() != 0 {
		t.Error("the relay was asked")
	}
}

// TestHandleAdmissionErrors: error routes word these refusals as any other.
func TestHandleAdmissionErrors(t *testing.T) {
	relay, _ := acceptAll(t)
	s := mount(https(relay), "api_keys good")
	s.body += "\nhandle_errors {\nrespond \"sorry: {err.status_code}\" {err.status_code}\n}"
	p := start(t, s)
	response, body := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/get-qualityrtc-config"), nil))
	wantStatus(t, response, http.StatusForbidden)
	wantBody(t, body, "sorry: 403")
}

// TestGreeting refuses WebSockets the way the SDK understands.
func TestGreeting(t *testing.T) {
	relay, accepted := acceptAll(t)
	s := mount(https(relay), "origins https://app.example", "api_keys good", "refuse_with greeting", "max_tunnels 1")
	p := start(t, s.over(http3x))
	const app = "Origin: https://app.example"
	for _, protocol := range []string{http1, http2x, http3x} {
		t.Run(protocol, func(t *testing.T) {
			for query, origin := range map[string]string{"?apiKey=bad": app, "?apiKey=good": "Origin: https://evil.example"} {
				c := p.open(t, protocol, "/websocket"+query, "", origin, "Sec-WebSocket-Protocol: 2.0, 1.0",
					"Sec-WebSocket-Extensions: permessage-deflate")
				wantStatus(t, c.Response, opened(protocol))
				wantField(t, c.Header, "Sec-Websocket-Protocol", "2.0")
				wantField(t, c.Header, "Sec-Websocket-Extensions", "")
				wantField(t, c.Header, "Access-Control-Allow-Origin", "")
				f, err := c.frames.Next()
				if err != nil || f.Opcode != wstest.Text || !strings.HasPrefix(string(f.Payload), `{"error":"refused by the proxy: `) {
					t.Fatalf("%s, %v, want an error", f, err)
				}
				f, err = c.frames.Next()
				if err != nil || f.Opcode != wstest.Close || f.Code() != 1008 {
					t.Fatalf("%s, %v, want a Close frame with 1008", f, err)
				}
				c.send(t, wstest.CloseFrame(1008))
				expectEnd(t, c.r)
				c.closeWrite()
			}
			// What is not for good has its status.
			c := p.open(t, protocol, "/websocket?apiKey=good", "", app)
			wantStatus(t, c.Response, opened(protocol))
			full := p.open(t, protocol, "/websocket?apiKey=good", "", app)
			wantStatus(t, full.Response, http.StatusServiceUnavailable)
			full.reset()
			leave(t, c)
			lines := map[string]int{http1: 1, http2x: 2, http3x: 3}
			p.logs.awaitLines(t, lines[protocol], "tunnel closed")
		})
	}
	if n := accepted.Load(); n != 3 {
		t.Errorf("the relay was asked %d times, want 3", n)
	}
}

// loadElsewhere has Caddy run a site on another port. On the same one, what connects
// while the old listener closes may be reset.
func (p *proxy) loadElsewhere(t *testing.T, s site) (err error) {
	t.Helper()
	for range 10 {
		port := freePort(t)
		if err = load(s, port); err == nil {
			p.port, p.addr = port, fmt.Sprintf("127.0.0.1:%d", port)
		}
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
	}
	return err
}

// move is reload on another port.
func (p *proxy) move(t *testing.T, s site) {
	t.Helper()
	if err := p.loadElsewhere(t, s); err != nil {
		t.Fatal(err)
	}
}

// TestLimitsAreOfTheProcess: they count what other handlers and configurations hold.
func TestLimitsAreOfTheProcess(t *testing.T) {
	relay, _ := acceptAll(t)
	limited := func(limit string) site {
		return site{body: directive("/any", https(relay)) + "\n" + directive("/websocket", https(relay), limit)}
	}
	p := start(t, limited("max_tunnels 3"))
	first := p.open(t, http1, "/any", "", "X-Forwarded-For: 2001:db8::1")
	second := p.open(t, http2x, "/websocket", "", "X-Forwarded-For: 2001:db8::2")
	wantStatus(t, first.Response, http.StatusSwitchingProtocols)
	wantStatus(t, second.Response, http.StatusOK)
	for _, step := range []struct {
		limit, client string
		status        int
	}{
		{"max_tunnels 2", "192.0.2.1", 503},
		{"max_tunnels_per_client 2", "2001:db8::3", 429},
		{"max_tunnels_per_client 2", "2001:db8:0:1::3", 101},
		{"max_tunnels_per_client 3", "2001:db8::3", 101},
		{"max_tunnels 1", "192.0.2.1", 503},
	} {
		p.move(t, limited(step.limit))
		c := p.open(t, http1, "/websocket", "", "X-Forwarded-For: "+step.client)
		if c.StatusCode != step.status {
			t.Errorf("%v: status %d", step, c.StatusCode)
		}
		if c.StatusCode == http.StatusSwitchingProtocols {
			leave(t, c)
		}
	}
	leave(t, first) // opened by a configuration that is long gone
	leave(t, second)
	p.logs.awaitLines(t, 4, "tunnel closed")
	p.move(t, limited("max_tunnels 1"))
	last := p.open(t, http1, "/websocket", "")
	wantStatus(t, last.Response, http.StatusSwitchingProtocols)
	leave(t, last)
}

// TestSlotsOfHandshakes has handshakes end in each way, with a slot for one. It is
// there again after each.
func TestSlotsOfHandshakes(t *testing.T) {
	respond := map[string]func(*wstest.Conn){
		"refuse":  func(c *wstest.Conn) { c.WriteResponse("403 Forbidden", "") },
		"invalid": func(c *wstest.Conn) { c.WriteResponseHead("101 Switching Protocols", "Upgrade: websocket") },
		"close":   func(c *wstest.Conn) {},
		"silent":  func(c *wstest.Conn) { io.Copy(io.Discard, c) },
		"accept":  func(c *wstest.Conn) {},
	}
	arrived := make(chan struct{}, 1)
	relay := rawRelay(t, func(c *wstest.Conn) {
		r, err := c.ReadRequest()
		if err != nil {
			return
		}
		way := r.URL.Query().Get("way")
		if way == "accept" {
			c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
			io.Copy(io.Discard, c)
			return
		}
		if way == "silent" {
			arrived <- struct{}{}
		}
		respond[way](c)
	})
	p := start(t, mount(https(relay), "max_tunnels 1", "handshake_timeout 300ms"))
	for _, protocol := range []string{http1, http2x} {
		for way, status := range map[string]int{"refuse": 403, "invalid": 502, "close": 502, "silent": 504} {
			// The one before has its response before its slot is back.
			c := p.openSoon(t, protocol, "/websocket?way="+way, status)
			c.reset()
		}
		blocked := make(chan *tunnel, 1)
		go func() { blocked <- p.openSoon(t, protocol, "/websocket?way=silent", 504) }()
		for len(arrived) > 0 {
			<-arrived
		}
		await(t, arrived, "handshake")
		wantStatus(t, p.open(t, http1, "/websocket?way=accept", "").Response, http.StatusServiceUnavailable)
		await(t, blocked, "response").reset()
		open := p.openSoon(t, protocol, "/websocket?way=accept", opened(protocol))
		wantStatus(t, p.open(t, http1, "/websocket?way=accept", "").Response, http.StatusServiceUnavailable)
		open.reset()
	}
	p.openSoon(t, http1, "/websocket?way=accept", http.StatusSwitchingProtocols).reset()
}

// openSoon opens a WebSocket as soon as there is a slot for it.
func (p *proxy) openSoon(t *testing.T, protocol, target string, status int, fields ...string) *tunnel {
	t.Helper()
	for range 1000 {
		c := p.open(t, protocol, target, "", fields...)
		if c.StatusCode != http.StatusServiceUnavailable && c.StatusCode != http.StatusTooManyRequests {
			wantStatus(t, c.Response, status)
			return c
		}
		c.reset()
	}
	t.Fatal("no slot is ever free")
	return nil
}

// TestSlotsInAStorm opens and drops WebSockets in all ways from many clients at once.
// Then there are as many slots as before, no fewer and no more.
func TestSlotsInAStorm(t *testing.T) {
	const slots, workers, rounds = 12, 16, 12
	relay := rawRelay(t, func(c *wstest.Conn) {
		r, err := c.ReadRequest()
		if err != nil {
			return
		}
		switch rand.IntN(8) {
		case 0:
			return
		case 1:
			c.WriteResponse("500 Internal Server Error", "")
			return
		case 2:
			c.Reset()
			return
		}
		c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
			"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
		switch rand.IntN(3) {
		case 0:
			c.Reset()
		case 1:
			c.Write(wstest.Encode(false, wstest.CloseFrame(1000)))
		}
		io.Copy(io.Discard, c)
	})
	calm, _ := acceptAll(t)
	s := site{plain: true, body: directive("/storm", https(relay), fmt.Sprint("max_tunnels ", slots)) + "\n" +
		directive("/calm", https(calm), fmt.Sprint("max_tunnels ", slots))}
	p := start(t, s)
	statuses := make(map[int]int)
	var mu sync.Mutex // protects statuses
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				c := p.dial(t)
				if rand.IntN(6) == 0 { // gone before there is a response
					c.WriteText(wstest.RequestHead("GET", "/storm", wstest.HandshakeFields(wstest.NewKey())...))
					c.Reset()
					continue
				}
				response, _ := c.Handshake("/storm")
				if response == nil {
					continue
				}
				mu.Lock()
				statuses[response.StatusCode]++
				mu.Unlock()
				if rand.IntN(2) == 0 {
					c.Write(wstest.Encode(true, wstest.CloseFrame(1000)))
				}
				c.Reset()
			}
		})
	}
	wg.Wait()
	t.Logf("statuses: %v", statuses)
	held := make([]*tunnel, slots)
	for i := range held {
		held[i] = p.openSoon(t, http1, "/calm", http.StatusSwitchingProtocols)
	}
	wantStatus(t, p.open(t, http1, "/calm", "").Response, http.StatusServiceUnavailable)
	for _, c := range held {
		leave(t, c)
	}
}

// TestForgeableClient: limits by an address that anyone can make up are refused at load.
func TestForgeableClient(t *testing.T) {
	relay, _ := acceptAll(t)
	p := start(t, mount(https(relay)))
	for _, test := range []struct {
		server, option string
		want           string // empty: it loads
	}{
		{"trusted_proxies static private_ranges", "", "want trusted_proxies_strict beside them, or trusted_proxies in watchrtc_proxy"},
		{"trusted_proxies static private_ranges\ntrusted_proxies_strict", "", ""},
		{"trusted_proxies static private_ranges", "trusted_proxies private_ranges", ""},
		{"", "", ""},
	} {
		s := mount(https(relay), "max_tunnels_per_client 1", test.option)
		s.server = test.server
		err := p.loadElsewhere(t, s)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, %q: %v, want %q", test.server, test.option, err, test.want)
		}
		if err != nil {
			continue
		}
		held := p.openSoon(t, http1, target, http.StatusSwitchingProtocols, "X-Forwarded-For: 198.51.100.1, 192.0.2.1")
		forged := p.open(t, http1, target, "", "X-Forwarded-For: 198.51.100.2, 192.0.2.1")
		wantStatus(t, forged.Response, http.StatusTooManyRequests)
		leave(t, held)
	}
}

// TestAdmissionAtLoad: mistakes that only a loaded configuration shows, and what the log
// says.
func TestAdmissionAtLoad(t *testing.T) {
	t.Setenv("TEST_APP", "https://app.example")
	t.Setenv("TEST_BAD", "staging:"+secret)
	relay, _ := acceptAll(t)
	p := start(t, mount(https(relay), "origins {env.TEST_APP}", "max_tunnels 500000000", "refuse_with greeting"))
	p.logs.await(t, "relaying", `"max_tunnels":500000000`)
	p.logs.await(t, "max_tunnels is more than there is room for")
	wantStatus(t, p.open(t, http1, "/websocket", "", "Origin: https://app.example").Response, http.StatusSwitchingProtocols)
	for option, want := range map[string]string{
		"api_keys {env.TEST_BAD}":   `api_keys "{env.TEST_BAD}": the SDK cuts "staging:"`,
		"api_keys {env.TEST_UNSET}": "placeholders must be known when the configuration is loaded",
		"origins {env.TEST_BAD}":    `origins "{env.TEST_BAD}"`,
	} {
		err := load(mount(https(relay), option), p.port)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %q", option, err, want)
		}
	}
	p.reload(t, mount(https(relay), "refuse_with greeting"))
	p.logs.await(t, "refuse_with greeting does nothing")
}
