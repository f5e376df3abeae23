package watchrtcproxy

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
)

// TestRequestHeader shows what of a request's header the relay sees.
func TestRequestHeader(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mountOn(relay.URL, ""))
	for _, kind := range kinds {
		fields := []string{
			"Cookie: session=operator", "Cookie: more=1",
			"Authorization: Bearer operator",
			"Proxy-Authorization: Basic operator",
			"Proxy-Connection: keep-alive",
			"Keep-Alive: timeout=5",
			"TE: trailers, deflate;q=0.5",
			"X-Named: hop", "X-Named-Too: hop",
			"Origin: https://page.example",
			"User-Agent: test/1",
			"Accept-Language: de",
			"X-Twice: 1", "X-Twice: 2",
			"Via: 1.0 before",
			"x-lower: kept",
		}
		c := p.dial(t, "")
		if kind == "POST" {
			fields = append(fields, "Connection: X-Named, keep-alive,x-named-too, TE", "Upgrade: h2c")
			c.ask(kind, "/websocket/trace", fields...)
		} else {
			c.request("GET", "/websocket", append(fields,
				"Connection: X-Named, Upgrade,x-named-too, TE", "Upgrade: websocket",
				"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+sampleKey,
				"Sec-WebSocket-Protocol: 2.0, other", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
			)...)
			c.wantStatus(c.answer("GET"), http.StatusSwitchingProtocols)
		}
		header := relay.next(t).Header
		c.close()

		for _, gone := range []string{
			"Cookie", "Authorization", "Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "X-Named", "X-Named-Too",
		} {
			wantField(t, kind, header, gone, "")
		}
		for field, want := range map[string]string{
			"Origin": "https://page.example", "User-Agent": "test/1", "Accept-Language": "de", "X-Lower": "kept", "Te": "trailers",
		} {
			wantField(t, kind, header, field, want)
		}
		wantLines(t, kind, header, "X-Twice", "1", "2")
		wantLines(t, kind, header, "Via", "1.0 before", "1.1 Caddy")
		if kind == "POST" {
			wantField(t, kind, header, "Upgrade", "")
			wantField(t, kind, header, "Content-Length", "2")
			continue
		}
		for field, want := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": sampleKey,
			"Sec-Websocket-Protocol": "2.0, other", "Sec-Websocket-Extensions": "permessage-deflate; client_max_window_bits",
		} {
			wantField(t, kind, header, field, want)
		}
	}
}

// TestRequestHeaderAdditions shows that nothing is added to a request that does
// not belong there.
func TestRequestHeaderAdditions(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mountOn(relay.URL, ""))
	own := map[string]bool{"X-Forwarded-For": true, "X-Forwarded-Proto": true, "X-Forwarded-Host": true, "Via": true}
	for _, kind := range kinds {
		c := p.dial(t, "")
		c.ask(kind, "/websocket")
		header := relay.next(t).Header
		c.close()
		for field := range header {
			switch {
			case own[field], field == "Content-Length" && kind == "POST":
			case kind == "WebSocket" && (field == "Connection" || field == "Upgrade" || strings.HasPrefix(field, "Sec-Websocket-")):
			default:
				t.Errorf("%s: %s: %q was added", kind, field, header[field])
			}
		}
	}
}

// TestHandshakeSpelling reads the handshake as bytes: some relays know the fields
// only as RFC 6455 spells them.
func TestHandshakeSpelling(t *testing.T) {
	heads := make(chan string, 1)
	addr := newRawRelay(t, relayTLS(), func(c *rawConn) {
		head, err := c.head()
		if err != nil {
			t.Error(err)
		}
		heads <- head
		c.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Accept: " + sampleAccept + "\r\nSec-WebSocket-Protocol: 2.0\r\n\r\n")
		c.drain()
	})
	p := start(t, mountOn("wss://"+addr, ""))
	c := p.dial(t, "")
	c.request("GET", "/websocket?apiKey=k", append(handshakeFields, "sec-websocket-protocol: 2.0", "Sec-Websocket-Extensions: x")...)
	head := <-heads
	for _, line := range []string{
		"GET /?apiKey=k HTTP/1.1\r\n", "\r\nHost: " + addr + "\r\n", "\r\nConnection: Upgrade\r\n", "\r\nUpgrade: websocket\r\n",
		"\r\nSec-WebSocket-Key: ", "\r\nSec-WebSocket-Version: 13\r\n", "\r\nSec-WebSocket-Protocol: 2.0\r\n", "\r\nSec-WebSocket-Extensions: x\r\n",
	} {
		if strings.Count(head, line) != 1 {
			t.Errorf("the relay does not see %q once in\n%s", line, head)
		}
	}
	var answer strings.Builder
	for !strings.HasSuffix(answer.String(), "\r\n\r\n") {
		line, err := c.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		answer.WriteString(line)
	}
	for _, line := range []string{
		"HTTP/1.1 101 Switching Protocols\r\n", "\r\nConnection: Upgrade\r\n", "\r\nUpgrade: websocket\r\n",
		"\r\nSec-WebSocket-Accept: " + sampleAccept + "\r\n", "\r\nSec-WebSocket-Protocol: 2.0\r\n",
	} {
		if strings.Count(answer.String(), line) != 1 {
			t.Errorf("the client does not see %q once in\n%s", line, answer.String())
		}
	}
	c.close()
}

// answerFields are what a relay could try on the operator's domain, and some
// harmless ones.
func answerFields(header http.Header) {
	for field, value := range map[string]string{
		"Set-Cookie":                "relay=1",
		"Strict-Transport-Security": "max-age=0",
		"Alt-Svc":                   `h3="relay.example:443"`,
		"Clear-Site-Data":           `"*"`,
		"NEL":                       `{"report_to":"x"}`,
		"Report-To":                 `{"group":"x"}`,
		"Reporting-Endpoints":       `x="https://relay.example"`,
		"Service-Worker-Allowed":    "/",
		"Public-Key-Pins":           "x",
		"Proxy-Authenticate":        "Basic",
		"Proxy-Connection":          "close",
		"Keep-Alive":                "timeout=1",
		"X-Named":                   "hop",

		"Content-Security-Policy":     "default-src *",
		"X-Content-Type-Options":      "sniff",
		"Access-Control-Allow-Origin": "https://page.example",
		"Server":                      "relay/1",
		"X-Relay":                     "kept",
	} {
		header.Set(field, value)
	}
	header["X-Twice"] = []string{"1", "2"}
	header["Via"] = []string{"1.1 behind"}
}

// accept101 answers a handshake with a Connection of one's choice, and closes.
func accept101(t *testing.T, w http.ResponseWriter, r *http.Request, connection string) {
	header := w.Header().Clone()
	header.Set("Connection", connection)
	header.Set("Upgrade", "websocket")
	header.Set("Sec-Websocket-Accept", handshake.Accept(r.Header.Get("Sec-Websocket-Key")))
	header.Set("Sec-Websocket-Protocol", r.Header.Get("Sec-Websocket-Protocol"))
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	var answer bytes.Buffer
	answer.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	header.Write(&answer)
	answer.WriteString("\r\n")
	conn.Write(answer.Bytes())
}

// TestAnswerHeader shows what of the relay's answer the client sees: on a 101, on a
// success, and on an answer in place of a 101.
func TestAnswerHeader(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		answerFields(w.Header())
		switch r.URL.Path {
		case "/refuse":
			w.Header().Set("Connection", "x-named")
			w.WriteHeader(http.StatusForbidden)
		case "/trace":
			w.Header().Set("Connection", "X-Named")
			io.WriteString(w, "answer")
		default:
			accept101(t, w, r, "Upgrade, X-Named")
		}
	})
	p := start(t, site{server: "protocols h1 h2", body: directiveFor("/websocket", relay.URL, "")})
	for _, kind := range []string{"101", "200", "403"} {
		c := p.dial(t, "")
		var answer *http.Response
		switch kind {
		case "101":
			answer = c.ask("WebSocket", "/websocket", "Sec-WebSocket-Protocol: 2.0")
		case "200":
			answer = c.ask("POST", "/websocket/trace")
		default:
			answer = c.handshake("/websocket/refuse")
			c.wantStatus(answer, http.StatusForbidden)
		}
		c.close()

		for _, gone := range []string{
			"Set-Cookie", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data", "Nel", "Report-To", "Reporting-Endpoints",
			"Service-Worker-Allowed", "Public-Key-Pins", "Proxy-Authenticate", "Proxy-Connection", "Keep-Alive",
		} {
			wantField(t, kind, answer.Header, gone, "")
		}
		for field, want := range map[string]string{
			"Access-Control-Allow-Origin": "https://page.example", "Server": "relay/1", "X-Relay": "kept",
		} {
			wantField(t, kind, answer.Header, field, want)
		}
		wantLines(t, kind, answer.Header, "X-Twice", "1", "2")
		wantLines(t, kind, answer.Header, "Via", "1.1 behind", "1.1 Caddy")
		wantField(t, kind, answer.Header, "X-Named", "")
		if kind == "101" {
			wantField(t, kind, answer.Header, "Connection", "Upgrade")
			wantField(t, kind, answer.Header, "Sec-Websocket-Protocol", "2.0")
			continue
		}
		wantField(t, kind, answer.Header, "X-Content-Type-Options", "nosniff")
		wantField(t, kind, answer.Header, "Content-Security-Policy", "sandbox; default-src 'none'")
	}
}

// TestHeaderOptions shows that header_up and header_down come last: they undo the
// rules and add to them.
func TestHeaderOptions(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		answerFields(w.Header())
		answerAll(w, r)
	})
	p := start(t, mountOn(relay.URL, `
		header_up X-Forwarded-For 192.0.2.1
		header_up Authorization "Basic {http.request.header.X-Secret}"
		header_up -Via
		header_up +X-Site blue
		header_up X-Rewritten ^a(.) b$1
		header_up Host other.example
		header_down Set-Cookie {http.watchrtc_proxy.header.Set-Cookie}
		header_down -Content-Security-Policy
		header_down -Via
		header_down X-Relay kept changed
		header_down +X-Site {http.watchrtc_proxy.header.X-Twice}`))
	for _, kind := range kinds {
		c := p.dial(t, "")
		answer := c.ask(kind, "/websocket", "X-Secret: s", "Authorization: mine", "X-Rewritten: axe")
		c.close()
		seen := relay.next(t)
		for field, want := range map[string]string{
			"X-Forwarded-For": "192.0.2.1", "Authorization": "Basic s", "Via": "", "X-Site": "blue", "X-Rewritten": "bxe",
		} {
			wantField(t, kind, seen.Header, field, want)
		}
		if seen.Host != "other.example" {
			t.Errorf("%s: Host %s", kind, seen.Host)
		}
		for field, want := range map[string]string{
			"Content-Security-Policy": "", "Via": "", "X-Relay": "changed", "X-Site": "1,2",
		} {
			if kind == "WebSocket" && field == "Content-Security-Policy" {
				continue // has no say there: the relay's own passes
			}
			wantField(t, kind, answer.Header, field, want)
		}
		wantField(t, kind, answer.Header, "Set-Cookie", "relay=1") // undone
	}
}

func wantLines(t *testing.T, kind string, header http.Header, field string, want ...string) {
	t.Helper()
	if got := strings.Join(header[field], "|"); got != strings.Join(want, "|") {
		t.Errorf("%s: %s: %q, want %q", kind, field, header[field], want)
	}
}
