package integration_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestBodyTooLarge shows both ways to send more than max_body_size.
func TestBodyTooLarge(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, "max_body_size 10"))
	const chunked = "Transfer-Encoding: chunked"
	for _, test := range []struct {
		name, field, body string
		status            int
	}{
		{"length at the limit", "Content-Length: 10", "0123456789", 200},
		{"length above the limit", "Content-Length: 11", "0123456789a", 413},
		{"chunks at the limit", chunked, "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", 200},
		{"chunks above the limit", chunked, "5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", 413},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := p.dial(t)
			c.request("POST", "/websocket/trace", test.field, "Origin: https://page.example")
			c.write(test.body)
			response := c.response("POST")
			if test.status == http.StatusOK {
				c.wantStatus(response, http.StatusOK)
				if body := relay.next(t).body; body != "0123456789" {
					t.Errorf("the relay saw %q", body)
				}
				return
			}
			wantRefusal(t, test.name, response, test.status)
			if relay.saw() {
				t.Errorf("the relay saw %q", relay.next(t).body)
			}
		})
	}
}

// TestBodyBreaksOff has a client that sends less than it announces: its fault, not
// the relay's, and nothing that the relay takes for whole.
func TestBodyBreaksOff(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	for _, test := range []struct{ field, body string }{
		{"Content-Length: 10", "01234"},
		{"Transfer-Encoding: chunked", "5\r\n01234\r\n"},
		{"Transfer-Encoding: chunked", "5\r\n01234\r\nno length\r\n"},
	} {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", test.field)
		c.write(test.body)
		c.closeWrite()
		response, err := http.ReadResponse(c.R, nil)
		if err == nil && response.StatusCode != http.StatusBadRequest && response.StatusCode != 499 {
			t.Errorf("%s: status %d", test.field, response.StatusCode)
		}
		c.close()
		if relay.saw() {
			t.Errorf("%s: the relay saw %q as a whole", test.field, relay.next(t).body)
		}
	}
}

// TestRefusalWithoutOrigin has a client that is no page.
func TestRefusalWithoutOrigin(t *testing.T) {
	p := start(t, mount("wss://"+wstest.DeadAddr(t), ""))
	for _, kind := range kinds {
		c := p.dial(t)
		response := c.try(kind, "/websocket")
		if response.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: status %d", kind, response.StatusCode)
		}
		wantLine(t, kind, response.Header, "Access-Control-Allow-Origin", "")
		wantLine(t, kind, response.Header, "Vary", "")
	}
}

// TestHandleErrors shows that the operator can word the responses made here.
func TestHandleErrors(t *testing.T) {
	s := mount("wss://"+wstest.DeadAddr(t), "max_body_size 1")
	s.body += `
		handle_errors {
			header X-Handled yes
			respond "sorry: {err.status_code}" {err.status_code}
		}`
	p := start(t, s)
	for _, test := range []struct {
		kind, target string
		fields       []string
		status       int
	}{
		{"WebSocket", "/websocket", nil, 502},
		{"WebSocket", "/websocket", []string{"Sec-WebSocket-Version: 12"}, 426},
		{"POST", "/websocket", nil, 413},
	} {
		c := p.dial(t)
		response := c.try(test.kind, test.target, append(test.fields, "Origin: https://page.example")...)
		body, err := io.ReadAll(response.Body)
		if response.StatusCode != test.status || err != nil || !strings.HasPrefix(string(body), "sorry: ") {
			t.Errorf("%v: status %d, body %q (%v)", test, response.StatusCode, body, err)
		}
		wantLine(t, test.kind, response.Header, "X-Handled", "yes")
		wantLine(t, test.kind, response.Header, "Access-Control-Allow-Origin", "https://page.example")
	}
}

// secrets are those of a client of these tests; the second is escaped.
const (
	secretKey   = "s3cretKey"
	secretToken = "s3cret%54oken"
	secretQuery = "?apiKey=" + secretKey + "&sessionId=session-1&token=" + secretToken
)

// useSecrets goes through successes and failures with a query that holds secrets,
// and returns the log lines.
func useSecrets(t *testing.T, logFormat string) []string {
	t.Helper()
	echo := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.ReadHead(); err == nil {
			c.WriteText("HTTP/1.1 " + secretKey + "-s3cretToken-" + secretToken + "\r\n\r\n")
			c.CloseWrite() // closing with a body unread would reset the connection
			c.ReadToEnd()
		}
	}).Addr
	good := newRelay(t, nil)
	dead := wstest.DeadAddr(t)
	s := site{log: logFormat, debug: true, body: "log\n" +
		directive("/websocket", good.URL, "") + "\n" +
		directive("/echo", "wss://"+echo, "") + "\n" +
		directive("/dead", "wss://"+dead, "")}
	p := start(t, s)
	for _, target := range []string{"/websocket", "/echo", "/dead"} {
		for _, kind := range kinds {
			c := p.dial(t)
			c.try(kind, target+secretQuery)
			c.close()
		}
		c := p.dial(t)
		c.try("WebSocket", target+secretQuery, "Sec-WebSocket-Version: 12")
		c.close()
	}
	p.closed(t)
	p.stop(t)
	lines, _ := p.logs.matching()
	return slices.DeleteFunc(lines, func(line string) bool { // an earlier test's faults are summed up in an interval
		return strings.Contains(line, "relay failed") && !strings.Contains(line, echo) && !strings.Contains(line, dead)
	})
}

// TestSecretsInLogs shows that apiKey and token are in no log line of this module,
// and in no error that it hands to Caddy.
func TestSecretsInLogs(t *testing.T) {
	closed, failed, errors := 0, 0, 0
	for _, line := range useSecrets(t, "json") {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		delete(fields, "request") // Caddy's, see TestSecretsInAccessLog
		rest, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(rest), "s3cret") {
			t.Errorf("a secret in %s", rest)
		}
		switch fields["logger"] {
		case "http.handlers.watchrtc_proxy":
			switch fields["msg"] {
			case "relay failed":
				failed++
			case "tunnel closed":
				if closed++; fields["session_id"] != "session-1" {
					t.Errorf("session_id is missing in %s", line)
				}
			}
		case "http.log.error":
			if errors++; fields["level"] == "error" {
				t.Errorf("Caddy logs %s", line)
			}
		}
	}
	if closed != 1 || failed != 2 || errors != 3 {
		t.Errorf("%d tunnels closed, %d failures of relays, %d errors", closed, failed, errors)
	}
}

// TestSecretsInAccessLog shows that the filter of the documentation keeps secrets
// out of what Caddy itself logs.
func TestSecretsInAccessLog(t *testing.T) {
	const filter = `filter {
		wrap json
		fields {
			request>uri query {
				replace apiKey REDACTED
				replace token REDACTED
			}
		}
	}`
	redacted := 0
	for _, line := range useSecrets(t, filter) {
		if strings.Contains(line, "s3cret") {
			t.Errorf("a secret in %s", line)
		}
		if strings.Contains(line, "apiKey=REDACTED") {
			redacted++
		}
	}
	if redacted < 9 {
		t.Errorf("%d lines with a request, want one for each at least", redacted)
	}
}
