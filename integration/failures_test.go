package integration_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestQueryCannotGrow has a query whose values are part of what would replace them:
// whatever becomes of a failed request costs no more than others do.
func TestQueryCannotGrow(t *testing.T) {
	query := "?apiKey=e"
	for range 9 {
		query += "&apiKey=E&token=D"
	}
	p := start(t, mount("wss://"+wstest.DeadAddr(t), ""))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, kind := range kinds {
		c := p.dial(t)
		c.wantStatus(c.try(kind, "/websocket"+query), http.StatusBadGateway)
		c.close()
	}
	c := p.dial(t)
	c.request("POST", "/websocket"+query, "Transfer-Encoding: chunked")
	c.write("zz\r\n")
	response := c.response("POST")
	if response.StatusCode != http.StatusBadGateway && response.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d", response.StatusCode)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("three requests cost %d bytes", grown)
	}
}

// TestKeyInNoLog has the configuration that needs no thought: the relay is down, and
// no line of any logger holds the key.
func TestKeyInNoLog(t *testing.T) {
	echo := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.ReadHead(); err == nil {
			c.WriteText("HTTP/1.1 " + secretKey + "-s3cretToken-" + secretToken + "\r\n\r\n")
			c.CloseWrite() // closing with a body unread would reset the connection
			c.ReadToEnd()
		}
	}).Addr
	p := start(t, site{debug: true, body: directive("/echo", "wss://"+echo, "") + "\nroute {\n" + directive("/websocket", "wss://"+wstest.DeadAddr(t), "") + "\n}"})
	for _, target := range []string{"/websocket", "/echo"} {
		for _, kind := range kinds {
			c := p.dial(t)
			wantRefusal(t, kind, c.try(kind, target+secretQuery, "Origin: https://page.example"), http.StatusBadGateway)
			c.close()
		}
	}
	p.logs.wait(t, 2, `"relay failed"`)
	p.stop(t)
	lines, _ := p.logs.matching("s3cret")
	for _, line := range lines {
		t.Errorf("a secret in %s", line)
	}
}

// TestErrorRoutes shows that error routes see an error of this handler wherever they
// would see one of any other.
func TestErrorRoutes(t *testing.T) {
	const sorry = `[{"handle":[{"handler":"static_response","status_code":"{http.error.status_code}","body":"sorry"}]}]`
	dead := fmt.Sprintf(`{"handler":"watchrtc_proxy","path_prefix":"/websocket","upstreams":["wss://%s"],"drain_window":0}`, wstest.DeadAddr(t))
	for name, test := range map[string]struct {
		handlers string
		want     string
	}{
		"no error routes":     {dead, ""},
		"in a subroute":       {`{"handler":"subroute","routes":[{"handle":[` + dead + `]}],"errors":{"routes":` + sorry + `}}`, "sorry"},
		"two subroutes above": {`{"handler":"subroute","routes":[{"handle":[{"handler":"subroute","routes":[{"handle":[` + dead + `]}]}]}],"errors":{"routes":` + sorry + `}}`, "sorry"},
		"after a subroute":    {`{"handler":"subroute","routes":[{"handle":[{"handler":"vars","a":"b"}]}],"errors":{"routes":` + sorry + `}},` + dead, "sorry"},
		"after another":       {`{"handler":"subroute","routes":[{"handle":[{"handler":"vars","a":"b"}]}]},` + dead, ""},
	} {
		p := startJSON(t, test.handlers)
		for _, kind := range kinds {
			c := p.dial(t)
			response := c.try(kind, "/websocket")
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusBadGateway || string(body) != test.want || err != nil {
				t.Errorf("%s, %s: status %d, body %q (%v)", name, kind, response.StatusCode, body, err)
			}
			c.close()
		}
		p.stop(t)
	}
}

// TestErrorRoutesInCaddyfiles is the same for what a Caddyfile can say. The log counts by
// relay, so each case has its own.
func TestErrorRoutesInCaddyfiles(t *testing.T) {
	dead := func() string { return directive("/websocket", "wss://"+wstest.DeadAddr(t)) }
	const sorry = "\nhandle_errors {\nrespond \"sorry {err.message}\" {err.status_code}\n}"
	for name, s := range map[string]site{
		"in the site":      {body: dead() + sorry},
		"in a route":       {body: "route {\n" + dead() + "\n}" + sorry},
		"in a handle":      {body: "handle {\n" + dead() + "\n}" + sorry},
		"in a handle_path": {body: "handle_path /other/* {\n}\nhandle {\n" + dead() + "\n}" + sorry},
		"only for 502":     {body: dead() + strings.Replace(sorry, "handle_errors", "handle_errors 502", 1)},
	} {
		p := start(t, s)
		for _, kind := range kinds {
			c := p.dial(t)
			response := c.try(kind, "/websocket")
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusBadGateway || !strings.HasPrefix(string(body), "sorry connecting to wss://") || err != nil {
				t.Errorf("%s, %s: status %d, body %q (%v)", name, kind, response.StatusCode, body, err)
			}
			c.close()
		}
		p.logs.wait(t, 1, `"relay failed"`, `"stage":"connect"`)
		p.stop(t)
	}
}

// TestErrorRoutesOfInvokers has a named route: who invokes it may have error routes.
func TestErrorRoutesOfInvokers(t *testing.T) {
	const named = `"named_routes":{"relay":{"handle":[{"handler":"subroute","routes":[{"handle":[%s]}]}]}},`
	dead := fmt.Sprintf(`{"handler":"watchrtc_proxy","upstreams":["wss://%s"],"drain_window":0}`, wstest.DeadAddr(t))
	const handlers = `{"handler":"subroute","routes":[{"handle":[{"handler":"invoke","name":"relay"}]}],"errors":{"routes":[{"handle":[{"handler":"static_response","status_code":"{http.error.status_code}","body":"sorry"}]}]}}`
	p := startConfig(t, func(port int) []byte {
		return bytes.Replace(routeJSON(t, port, handlers), []byte(`"routes":[`), []byte(fmt.Sprintf(named, dead)+`"routes":[`), 1)
	})
	c := p.dial(t)
	response := c.try("POST", "/websocket")
	if body, err := io.ReadAll(response.Body); string(body) != "sorry" || err != nil {
		t.Errorf("body %q (%v)", body, err)
	}
}

// TestErrorsNameTheRelay shows what the log says of each kind of failure: which relay,
// at which stage, and which limit. The log counts by relay, so each is a new one.
func TestErrorsNameTheRelay(t *testing.T) {
	for name, test := range map[string]struct {
		relay   func(t *testing.T) string
		options string
		want    []string // RELAY stands for the relay
	}{
		"dns": {unknownName, newNameServer(t).transport(), []string{`"stage":"dns"`, "connecting to RELAY: "}},
		"connect": {func(t *testing.T) string { return "wss://" + wstest.DeadAddr(t) }, "",
			[]string{`"stage":"connect"`, "connecting to RELAY: "}},
		"tls": {func(t *testing.T) string {
			return "wss://" + rawRelayWith(t, nil, func(c *wstest.Conn) { c.WriteResponseHead("400 Bad Request"); c.ReadToEnd() }).Addr
		}, "", []string{`"stage":"tls"`, "connecting to RELAY: tls: "}},
		"timeout": {func(t *testing.T) string { return "wss://" + rawRelay(t, func(c *wstest.Conn) { c.ReadToEnd() }).Addr },
			"handshake_timeout 200ms", []string{`"stage":"timeout"`, "RELAY did not respond within handshake_timeout (200ms)"}},
		"invalid": {func(t *testing.T) string { return "wss://" + rawRelay(t, func(c *wstest.Conn) { c.ReadHead() }).Addr }, "",
			[]string{`"stage":"invalid"`, "RELAY closed the connection before it responded"}},
		"status": {func(t *testing.T) string {
			return newRelay(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }).URL
		}, "", []string{`"stage":"status"`, `"status":503`, "refused a handshake"}},
	} {
		for way, options := range transportWays() {
			relay := test.relay(t)
			p := start(t, mount(relay, cmp.Or(test.options, options)))
			for range 3 {
				for _, kind := range kinds {
					c := p.dial(t)
					c.try(kind, "/websocket?apiKey=k")
					c.close()
				}
			}
			want := []string{`"relay failed"`}
			for _, words := range test.want {
				want = append(want, strings.ReplaceAll(words, "RELAY", relay))
			}
			// It comes with the next summary if a relay before had the same port.
			p.logs.wait(t, 1, want...)
			p.stop(t)
			if lines, _ := p.logs.matching(want...); len(lines) != 1 {
				all, _ := p.logs.matching(`"relay failed"`)
				t.Errorf("%s, %s: %d lines, want one for all; there are %q", name, way, len(lines), all)
			}
		}
	}
}

var unknownNames atomic.Int64

// unknownName returns a relay whose name no name server knows.
func unknownName(*testing.T) string {
	return fmt.Sprintf("wss://unknown-%d.example", unknownNames.Add(1))
}
