package watchrtcproxy

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// TestQueryCannotGrow has a query whose values are part of what would replace them:
// whatever becomes of a failed request costs no more than others do.
func TestQueryCannotGrow(t *testing.T) {
	query := "?apiKey=e"
	for range 9 {
		query += "&apiKey=E&token=D"
	}
	p := start(t, mountOn("wss://"+deadAddr(t), ""))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, kind := range kinds {
		c := p.dial(t, "")
		c.wantStatus(c.try(kind, "/websocket"+query), http.StatusBadGateway)
		c.close()
	}
	c := p.dial(t, "")
	c.request("POST", "/websocket"+query, "Transfer-Encoding: chunked")
	c.write("zz\r\n")
	response := c.answer("POST")
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
	echo := newRawRelay(t, relayTLS(), func(c *rawConn) {
		if _, err := c.head(); err == nil {
			c.write("HTTP/1.1 " + secretKey + "-s3cretToken-" + secretToken + "\r\n\r\n")
		}
	})
	p := start(t, site{body: directiveFor("/echo", "wss://"+echo, "") + "\nroute {\n" + directiveFor("/websocket", "wss://"+deadAddr(t), "") + "\n}"})
	for _, target := range []string{"/websocket", "/echo"} {
		for _, kind := range kinds {
			c := p.dial(t, "")
			wantRefusal(t, kind, c.try(kind, target+secretQuery, "Origin: https://page.example"), http.StatusBadGateway)
			c.close()
		}
	}
	p.logs.wait(testContext(t), t, 2, `"relay failed"`)
	stop(t)
	lines, _ := p.logs.matching("s3cret")
	for _, line := range lines {
		t.Errorf("a secret in %s", line)
	}
}

// TestErrorRoutes shows that error routes see an error of this handler wherever they
// would see one of any other.
func TestErrorRoutes(t *testing.T) {
	const sorry = `[{"handle":[{"handler":"static_response","status_code":"{http.error.status_code}","body":"sorry"}]}]`
	dead := fmt.Sprintf(`{"handler":"watchrtc_proxy","path_prefix":"/websocket","upstreams":["wss://%s"],"drain_window":0}`, deadAddr(t))
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
			c := p.dial(t, "")
			response := c.try(kind, "/websocket")
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusBadGateway || string(body) != test.want || err != nil {
				t.Errorf("%s, %s: status %d, body %q (%v)", name, kind, response.StatusCode, body, err)
			}
			c.close()
		}
		stop(t)
	}
}

// TestErrorRoutesInCaddyfiles is the same for what a Caddyfile can say.
func TestErrorRoutesInCaddyfiles(t *testing.T) {
	dead := directiveFor("/websocket", "wss://"+deadAddr(t), "")
	const sorry = "\nhandle_errors {\nrespond \"sorry {err.message}\" {err.status_code}\n}"
	for name, s := range map[string]site{
		"in the site":      {body: dead + sorry},
		"in a route":       {body: "route {\n" + dead + "\n}" + sorry},
		"in a handle":      {body: "handle {\n" + dead + "\n}" + sorry},
		"in a handle_path": {body: "handle_path /other/* {\n}\nhandle {\n" + dead + "\n}" + sorry},
		"only for 502":     {body: dead + strings.Replace(sorry, "handle_errors", "handle_errors 502", 1)},
	} {
		p := start(t, s)
		for _, kind := range kinds {
			c := p.dial(t, "")
			response := c.try(kind, "/websocket")
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusBadGateway || !strings.HasPrefix(string(body), "sorry connecting to wss://") || err != nil {
				t.Errorf("%s, %s: status %d, body %q (%v)", name, kind, response.StatusCode, body, err)
			}
			c.close()
		}
		p.logs.wait(testContext(t), t, 1, `"relay failed"`, `"stage":"connect"`)
		stop(t)
	}
}

// TestErrorRoutesOfInvokers has a named route: who invokes it may have error routes.
func TestErrorRoutesOfInvokers(t *testing.T) {
	const named = `"named_routes":{"relay":{"handle":[{"handler":"subroute","routes":[{"handle":[%s]}]}]}},`
	dead := fmt.Sprintf(`{"handler":"watchrtc_proxy","upstreams":["wss://%s"],"drain_window":0}`, deadAddr(t))
	const handlers = `{"handler":"subroute","routes":[{"handle":[{"handler":"invoke","name":"relay"}]}],"errors":{"routes":[{"handle":[{"handler":"static_response","status_code":"{http.error.status_code}","body":"sorry"}]}]}}`
	p := startConfig(t, func(port int) []byte {
		config := string(adapt(t, site{body: "respond replaced 500"}.caddyfile(port)))
		config = strings.Replace(config, `"routes":[`, fmt.Sprintf(named, dead)+`"routes":[`, 1)
		before, after, _ := strings.Cut(config, `{"body":"replaced"`)
		_, after, _ = strings.Cut(after, "}")
		return []byte(before + handlers + after)
	})
	c := p.dial(t, "")
	response := c.try("POST", "/websocket")
	if body, err := io.ReadAll(response.Body); string(body) != "sorry" || err != nil {
		t.Errorf("body %q (%v)", body, err)
	}
}

// TestErrorsNameTheRelay shows what the log says of each kind of failure: which relay,
// at which stage, and which limit.
func TestErrorsNameTheRelay(t *testing.T) {
	silent := newRawRelay(t, relayTLS(), func(c *rawConn) { c.drain() })
	noTLS := newRawRelay(t, nil, func(c *rawConn) { c.write("HTTP/1.1 400 Bad Request\r\n\r\n"); c.drain() })
	hangsUp := newRawRelay(t, relayTLS(), func(c *rawConn) { c.head() })
	dead := deadAddr(t)
	names := newNameServer(t)
	busy := newRelay(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	for name, test := range map[string]struct {
		relay, options string
		want           []string
	}{
		"dns":     {"wss://unknown.example", names.transport(), []string{`"stage":"dns"`, "connecting to wss://unknown.example: "}},
		"connect": {"wss://" + dead, "", []string{`"stage":"connect"`, "connecting to wss://" + dead + ": "}},
		"tls":     {"wss://" + noTLS, "", []string{`"stage":"tls"`, "connecting to wss://" + noTLS + ": tls: "}},
		"timeout": {"wss://" + silent, "handshake_timeout 200ms", []string{`"stage":"timeout"`, "wss://" + silent + " did not respond within handshake_timeout (200ms)"}},
		"invalid": {"wss://" + hangsUp, "", []string{`"stage":"invalid"`, "wss://" + hangsUp + " closed the connection before it responded"}},
		"status":  {busy.URL, "", []string{`"stage":"status"`, `"status":503`, "refused a handshake"}},
	} {
		for _, options := range []string{"", "read_timeout 1h"} {
			if options != "" && test.options == "" {
				options = "transport http {\ntls_trust_pool file {roots}\n" + options + "\n}"
			} else {
				options = test.options
			}
			resetFaults()
			p := start(t, mountOn(test.relay, options))
			for range 3 {
				for _, kind := range kinds {
					c := p.dial(t, "")
					c.try(kind, "/websocket?apiKey=k")
					c.close()
				}
			}
			stop(t)
			lines, _ := p.logs.matching(append(test.want, `"relay failed"`)...)
			if len(lines) != 1 {
				all, _ := p.logs.matching(`"relay failed"`)
				t.Errorf("%s: %d lines, want one for all; there are %q", name, len(lines), all)
			}
		}
	}
}

func resetFaults() {
	faults.mu.Lock()
	clear(faults.counts)
	faults.mu.Unlock()
}
