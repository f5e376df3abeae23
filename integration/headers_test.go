package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRequestHeader shows what of a request's header the relay sees.
func TestRequestHeader(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
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
		c := p.dial(t)
		if kind == "POST" {
			fields = append(fields, "Connection: X-Named, keep-alive,x-named-too, TE", "Upgrade: h2c")
			c.ask(kind, "/websocket/trace", fields...)
		} else {
			c.request("GET", "/websocket", append(fields,
				"Connection: X-Named, Upgrade,x-named-too, TE", "Upgrade: websocket",
				"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: "+wstest.SampleKey,
				"Sec-WebSocket-Protocol: 2.0, other", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
			)...)
			c.wantStatus(c.response("GET"), http.StatusSwitchingProtocols)
		}
		header := relay.next(t).Header
		c.close()

		for _, gone := range []string{
			"Cookie", "Authorization", "Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "X-Named", "X-Named-Too",
		} {
			wantLine(t, kind, header, gone, "")
		}
		for field, want := range map[string]string{
			"Origin": "https://page.example", "User-Agent": "test/1", "Accept-Language": "de", "X-Lower": "kept", "Te": "trailers",
		} {
			wantLine(t, kind, header, field, want)
		}
		wantLines(t, kind, header, "X-Twice", "1", "2")
		wantLines(t, kind, header, "Via", "1.0 before", "1.1 Caddy")
		if kind == "POST" {
			wantLine(t, kind, header, "Upgrade", "")
			wantLine(t, kind, header, "Content-Length", "2")
			continue
		}
		for field, want := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Key": wstest.SampleKey,
			"Sec-Websocket-Protocol": "2.0, other", "Sec-Websocket-Extensions": "permessage-deflate; client_max_window_bits",
		} {
			wantLine(t, kind, header, field, want)
		}
	}
}

// TestRequestHeaderAdditions shows that nothing is added to a request that does
// not belong there.
func TestRequestHeaderAdditions(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	own := map[string]bool{"X-Forwarded-For": true, "X-Forwarded-Proto": true, "X-Forwarded-Host": true, "Via": true, "Cdn-Loop": true}
	for _, kind := range kinds {
		c := p.dial(t)
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
	addr := rawRelay(t, func(c *wstest.Conn) {
		head, err := c.ReadHead()
		if err != nil {
			t.Error(err)
		}
		heads <- head
		c.WriteText("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Accept: " + wstest.SampleAccept + "\r\nSec-WebSocket-Protocol: 2.0\r\n\r\n")
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr, ""))
	c := p.dial(t)
	c.request("GET", "/websocket?apiKey=k", append(wstest.HandshakeFields(wstest.SampleKey), "sec-websocket-protocol: 2.0", "Sec-Websocket-Extensions: x")...)
	head := <-heads
	for _, line := range []string{
		"GET /?apiKey=k HTTP/1.1\r\n", "\r\nHost: " + addr + "\r\n", "\r\nConnection: Upgrade\r\n", "\r\nUpgrade: websocket\r\n",
		"\r\nSec-WebSocket-Key: ", "\r\nSec-WebSocket-Version: 13\r\n", "\r\nSec-WebSocket-Protocol: 2.0\r\n", "\r\nSec-WebSocket-Extensions: x\r\n",
	} {
		if strings.Count(head, line) != 1 {
			t.Errorf("the relay does not see %q once in\n%s", line, head)
		}
	}
	response, err := c.Conn.ReadHead()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"HTTP/1.1 101 Switching Protocols\r\n", "\r\nConnection: Upgrade\r\n", "\r\nUpgrade: websocket\r\n",
		"\r\nSec-WebSocket-Accept: " + wstest.SampleAccept + "\r\n", "\r\nSec-WebSocket-Protocol: 2.0\r\n",
	} {
		if strings.Count(response, line) != 1 {
			t.Errorf("the client does not see %q once in\n%s", line, response)
		}
	}
	c.close()
}

// responseFields are what a relay could try on the operator's domain, and some
// harmless ones.
func responseFields(header http.Header) {
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
	header["Via"] = []string{"1.1 edge"}
}

// accept101 accepts a handshake with a Connection of one's choice, and closes.
func accept101(t *testing.T, w http.ResponseWriter, r *http.Request, connection string) {
	header := w.Header().Clone()
	header.Set("Connection", connection)
	header.Set("Upgrade", "websocket")
	header.Set("Sec-Websocket-Accept", wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
	header.Set("Sec-Websocket-Protocol", r.Header.Get("Sec-Websocket-Protocol"))
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	var response bytes.Buffer
	response.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	header.Write(&response)
	response.WriteString("\r\n")
	conn.Write(response.Bytes())
}

// TestNoContentType: what the relay says nothing of is not guessed, beside nosniff.
func TestNoContentType(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		io.WriteString(w, "<html>")
	})
	p := start(t, mount(relay.URL))
	overHTTP(t, func(t *testing.T, protocol string) {
		response, body := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/page"), nil))
		wantBody(t, body, "<html>")
		wantLine(t, protocol, response.Header, "Content-Type", "")
	})
}

// TestResponseHeader shows what of the relay's response the client sees: on a 101, on a
// success, and on a response in place of a 101.
func TestResponseHeader(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		responseFields(w.Header())
		switch r.URL.Path {
		case "/refuse":
			w.Header().Set("Connection", "x-named")
			w.WriteHeader(http.StatusForbidden)
		case "/trace":
			w.Header().Set("Connection", "X-Named")
			io.WriteString(w, "response")
		default:
			accept101(t, w, r, "Upgrade, X-Named")
		}
	})
	p := start(t, mount(relay.URL)) // without HTTP/3, and so without Alt-Svc of Caddy's
	for _, kind := range []string{"101", "200", "403"} {
		c := p.dial(t)
		var response *http.Response
		switch kind {
		case "101":
			response = c.ask("WebSocket", "/websocket", "Sec-WebSocket-Protocol: 2.0")
		case "200":
			response = c.ask("POST", "/websocket/trace")
		default:
			response = c.handshake("/websocket/refuse")
			c.wantStatus(response, http.StatusForbidden)
		}
		c.close()

		for _, gone := range []string{
			"Set-Cookie", "Strict-Transport-Security", "Alt-Svc", "Clear-Site-Data", "Nel", "Report-To", "Reporting-Endpoints",
			"Service-Worker-Allowed", "Public-Key-Pins", "Proxy-Authenticate", "Proxy-Connection", "Keep-Alive",
		} {
			wantLine(t, kind, response.Header, gone, "")
		}
		for field, want := range map[string]string{
			"Access-Control-Allow-Origin": "https://page.example", "Server": "relay/1", "X-Relay": "kept",
		} {
			wantLine(t, kind, response.Header, field, want)
		}
		wantLines(t, kind, response.Header, "X-Twice", "1", "2")
		wantLines(t, kind, response.Header, "Via", "1.1 edge", "1.1 Caddy")
		wantLine(t, kind, response.Header, "X-Named", "")
		if kind == "101" {
			wantLine(t, kind, response.Header, "Connection", "Upgrade")
			wantLine(t, kind, response.Header, "Sec-Websocket-Protocol", "2.0")
			continue
		}
		wantLine(t, kind, response.Header, "X-Content-Type-Options", "nosniff")
		wantLine(t, kind, response.Header, "Content-Security-Policy", "sandbox; default-src 'none'")
	}
}

// TestHeaderOptions shows that header_up and header_down come last: they undo the
// rules and add to them.
func TestHeaderOptions(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		responseFields(w.Header())
		respondToAll(w, r)
	})
	p := start(t, mount(relay.URL, `
		header_up X-Forwarded-For 192.0.2.1
		header_up Authorization "Basic {http.request.header.X-Secret}"
		header_up -Via
		header_up +X-Site blue
		header_up X-Request-Id {http.request.header.X-Request-Id}
		header_up X-Rewritten ^a(.) b$1
		header_up Host other.example
		header_down Set-Cookie {http.watchrtc_proxy.header.Set-Cookie}
		header_down -Content-Security-Policy
		header_down -Via
		header_down X-Relay kept changed
		header_down +X-Site {http.watchrtc_proxy.header.X-Twice}`))
	for _, kind := range kinds {
		c := p.dial(t)
		response := c.ask(kind, "/websocket", "X-Secret: s", "X-Request-Id: 17", "Authorization: mine", "X-Rewritten: axe")
		c.close()
		seen := relay.next(t)
		for field, want := range map[string]string{
			"X-Forwarded-For": "192.0.2.1", "Authorization": "Basic s", "Via": "", "X-Site": "blue", "X-Request-Id": "17", "X-Rewritten": "bxe",
		} {
			wantLine(t, kind, seen.Header, field, want)
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
			wantLine(t, kind, response.Header, field, want)
		}
		wantLine(t, kind, response.Header, "Set-Cookie", "relay=1") // undone
	}
}

// documented returns the names in a table of docs/headers.md, in which * stands for
// any ending, as fields.
func documented(t *testing.T, table string) []string {
	t.Helper()
	fields := documentedNames(t, table)
	for i, name := range fields {
		fields[i] = strings.Replace(name, "*", "Probe", 1)
	}
	return fields
}

// documentedNames returns the names in a table of docs/headers.md as they are there.
func documentedNames(t testing.TB, table string) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/headers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rows, ok := strings.Cut(string(page), table)
	if !ok {
		t.Fatalf("no table %q", table)
	}
	rows, _, _ = strings.Cut(rows, "\n\n")
	var names []string
	for _, row := range strings.Split(rows, "\n")[2:] {
		for i, word := range strings.Split(strings.Split(row, "|")[1], "`") {
			if i%2 == 1 {
				names = append(names, word)
			}
		}
	}
	return names
}

// TestNeverForwarded sends every field that must not reach the relay, in headers, in
// three spellings, and in trailers.
func TestNeverForwarded(t *testing.T) {
	trailers := documented(t, "| never forwarded |")
	var fields, lines []string
	for _, field := range trailers {
		fields = append(fields, field, strings.ToUpper(field), strings.ReplaceAll(field, "-", "_"))
	}
	for _, field := range fields {
		lines = append(lines, field+": 203.0.113.77")
	}
	for _, options := range []string{"", "mask_client_ip"} {
		relay := newRelay(t, nil)
		s := mount(relay.URL, options)
		s.server = proxyProtocol
		p := start(t, s)
		for peer, trusted := range map[string]bool{"10.1.2.3": true, "198.51.100.7": false} {
			for _, kind := range kinds {
				c := p.dial(t, from(peer))
				c.ask(kind, "/websocket", lines...)
				wantNone(t, kind, options, trusted, fields, relay.next(t).Header)
				c.close()
			}
			c := p.dial(t, from(peer))
			c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", "Trailer: X-Checksum, "+strings.Join(trailers, ", "))
			c.write("2\r\n{}\r\n0\r\nX-Checksum: 1\r\n")
			for _, field := range trailers {
				c.write(field + ": 203.0.113.77\r\n")
			}
			c.write("\r\n")
			c.wantStatus(c.response("POST"), http.StatusOK)
			seen := relay.next(t)
			c.close()
			wantLine(t, "trailer", seen.Trailer, "X-Checksum", "1")
			for field := range seen.Trailer {
				if field != "X-Checksum" {
					t.Errorf("%s (%s): the trailer %s crosses", peer, options, field)
				}
			}
		}
	}
}

// wantNone looks for fields that must not have crossed. Three of X-Forwarded-* are
// written anew, and Forwarded crosses from a trusted peer unless masked.
func wantNone(t *testing.T, kind, options string, trusted bool, fields []string, header http.Header) {
	t.Helper()
	for _, field := range fields {
		kept := strings.EqualFold(field, "Forwarded") && trusted && options == ""
		if _, ok := header[http.CanonicalHeaderKey(field)]; ok && !kept {
			t.Errorf("%s (trusted: %v, %s): %s crosses", kind, trusted, options, field)
		}
	}
	for field, values := range header {
		if leaked := strings.Join(values, " "); strings.Contains(leaked, "203.0.113.77") && (field != "Forwarded" || !trusted || options != "") {
			t.Errorf("%s (trusted: %v, %s): %s: %s crosses", kind, trusted, options, field, leaked)
		}
	}
}

// TestNeverPassedBack has a relay that sends every field that must not reach the
// browser: with a 101, in place of one, with a success, ahead of it and after it.
func TestNeverPassedBack(t *testing.T) {
	fields := documented(t, "| never passed back |")
	set := func(header http.Header, prefix string) {
		for _, field := range fields {
			header[prefix+http.CanonicalHeaderKey(field)] = []string{"relay"}
		}
	}
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		set(w.Header(), "")
		switch r.URL.Path {
		case "/refuse":
			w.WriteHeader(http.StatusForbidden)
		case "/trace":
			w.Header()["Link"] = []string{"</x>; rel=preload"}
			w.WriteHeader(http.StatusEarlyHints)
			io.WriteString(w, "response")
			http.NewResponseController(w).Flush()
			set(w.Header(), http.TrailerPrefix)
			w.Header()[http.TrailerPrefix+"X-Checksum"] = []string{"1"}
		default:
			accept101(t, w, r, "Upgrade")
		}
	})
	p := start(t, mount(relay.URL)) // without HTTP/3, and so without Alt-Svc of Caddy's
	want := func(what string, header http.Header) {
		t.Helper()
		for _, field := range fields {
			wantLine(t, what, header, http.CanonicalHeaderKey(field), "")
		}
	}
	c := p.dial(t)
	want("101", c.ask("WebSocket", "/websocket").Header)
	c.close()
	c = p.dial(t)
	want("403", c.handshake("/websocket/refuse").Header)
	c.close()
	c = p.dial(t)
	c.request("POST", "/websocket/trace", "Content-Length: 0")
	early := c.response("POST")
	c.wantStatus(early, http.StatusEarlyHints)
	want("103", early.Header)
	response := c.response("POST")
	c.wantStatus(response, http.StatusOK)
	want("200", response.Header)
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	want("trailer", response.Trailer)
	wantLine(t, "trailer", response.Trailer, "X-Checksum", "1")
}

// TestScriptsArePlainText has a relay that sends, in many spellings, what browsers run or
// take apart, and types that pass.
func TestScriptsArePlainText(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = r.URL.Query()["type"]
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	p := start(t, mount(relay.URL))
	c := p.dial(t)
	for _, test := range []struct{ types, want []string }{
		{[]string{"text/javascript"}, []string{"text/plain"}},
		{[]string{"Application/X-JavaScript; charset=utf-8"}, []string{"text/plain"}},
		{[]string{"text/javascript1.5"}, []string{"text/plain"}},
		{[]string{"application/x-ecmascript"}, []string{"text/plain"}},
		{[]string{"text/JScript"}, []string{"text/plain"}},
		{[]string{"text/livescript"}, []string{"text/plain"}},
		{[]string{"application/wasm"}, []string{"text/plain"}},
		{[]string{"multipart/x-mixed-replace; boundary=x"}, []string{"text/plain"}},
		{[]string{"text/html, text/javascript"}, []string{"text/plain"}},
		{[]string{"application/json", "text/javascript"}, []string{"text/plain"}},
		{[]string{"application/json; charset=utf-8"}, []string{"application/json; charset=utf-8"}},
		{[]string{"text/html"}, []string{"text/html"}},
		{[]string{"text/event-stream"}, []string{"text/event-stream"}},
		{nil, nil},
	} {
		query := url.Values{"type": test.types}.Encode()
		wantLines(t, query, c.ask("POST", "/websocket/trace?"+query).Header, "Content-Type", test.want...)
		refused := c.handshake("/websocket/refuse?" + query)
		c.wantStatus(refused, http.StatusForbidden)
		wantLines(t, query, refused.Header, "Content-Type", test.want...)
	}
}

// TestRedirects: a redirect is passed on, and not followed, unless it leads to the site
// that the client is on, however that is written.
func TestRedirects(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Location"] = r.URL.Query()["to"]
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	p := start(t, mount(relay.URL))
	for _, test := range []struct {
		host   string
		to     []string
		passes bool
	}{
		{"rtc.site.example", []string{"https://relay.vendor.example.net/trace?x=1#y"}, true},
		{"rtc.site.example", []string{"http://vendor.net"}, true},
		{"rtc.site.example", []string{"https://vendor.net:8443/"}, true},
		{"192.0.2.1", []string{"https://vendor.net/"}, true},
		{"rtc.site.example", []string{"/account"}, false},
		{"rtc.site.example", []string{"account"}, false},
		{"rtc.site.example", []string{"?account"}, false},
		{"rtc.site.example", []string{"//vendor.net/"}, false},
		{"rtc.site.example", []string{"https:/account"}, false},
		{"rtc.site.example", []string{"https:account"}, false},
		{"rtc.site.example", []string{"https:///rtc.site.example"}, false},
		{"rtc.site.example", []string{"https://rtc.site.example/account"}, false},
		{"rtc.site.example:8443", []string{"https://RTC.site.EXAMPLE/account"}, false},
		{"rtc.site.example", []string{"https://app.site.example/"}, false},
		{"rtc.site.example", []string{"https://site.example?"}, false},
		{"rtc.site.example.", []string{"https://site.example/"}, false},
		{"rtc.site.example", []string{"https://site.example./"}, false},
		{"rtc.site.example", []string{"https://vendor.net@site.example/"}, false},
		{"rtc.site.example", []string{`https://vendor.net\@site.example/`}, false},
		{"rtc.site.example", []string{"https://s%69te.example/"}, false},
		{"rtc.site.example", []string{"https://vendor.net", "/account"}, false},
		{"127.0.0.1", []string{"https://127.1/"}, false},
		{"127.0.0.1", []string{"https://0x7f.0.0.1/"}, false},
		{"[::1]", []string{"https://[::1]/"}, false},
		{"localhost", []string{"https://localhost/"}, false},
	} {
		c := p.dial(t)
		if err := c.WriteRequest("POST", "/websocket/trace?"+url.Values{"to": test.to}.Encode(), "Host: "+test.host, "Content-Length: 0"); err != nil {
			t.Fatal(err)
		}
		response, err := c.ReadResponse("POST")
		if err != nil {
			t.Fatal(err)
		}
		wantStatus(t, response, http.StatusTemporaryRedirect)
		var want []string
		if test.passes {
			want = test.to
		}
		wantLines(t, test.host+" to "+strings.Join(test.to, ", "), response.Header, "Location", want...)
	}
}

// TestRedirectsBehindLoadBalancer: the site that the client is on is the one that a trusted
// peer's X-Forwarded-Host names, whatever Host the peer asks with.
func TestRedirectsBehindLoadBalancer(t *testing.T) {
	const to = "https://rtc.site.example/account"
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	p := start(t, mount(relay.URL))
	for _, host := range []string{"caddy.internal.example.net", "10.0.0.1:8443", "rtc.site.example"} {
		c := p.dial(t)
		c.WriteRequest("POST", "/websocket/trace", "Host: "+host, "X-Forwarded-Host: rtc.site.example", "Content-Length: 0")
		response := c.response("POST")
		c.wantStatus(response, http.StatusTemporaryRedirect)
		wantLines(t, host, response.Header, "Location")
		if forwarded := relay.next(t).Header.Get("X-Forwarded-Host"); forwarded != "rtc.site.example" {
			t.Errorf("%s: the relay is told of %q", host, forwarded)
		}
		c.close()
	}
}

// TestReferer shows that the relay learns which site its client is on, not which
// page.
func TestReferer(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	for _, kind := range kinds {
		c := p.dial(t)
		c.ask(kind, "/websocket", "Referer: https://app.example/rooms/17?invite=secret")
		wantLine(t, kind, relay.next(t).Header, "Referer", "https://app.example/")
		c.close()
	}
}

// TestLoop has an upstream that leads back to the proxy.
func TestLoop(t *testing.T) {
	p := startConfig(t, func(port int) []byte {
		return adapt(t, mount(fmt.Sprintf("wss://localhost:%d/websocket", port), "").caddyfile(port))
	})
	for _, kind := range kinds {
		c := p.dial(t)
		response := c.try(kind, "/websocket", "Origin: https://page.example")
		c.wantStatus(response, http.StatusLoopDetected)
		wantLine(t, kind, response.Header, "Access-Control-Allow-Origin", "https://page.example")
		c.close()
	}
}

// TestCDNLoop shows that the relay can tell the proxies which a request has been
// through, and that another's mark is no loop.
func TestCDNLoop(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	for _, kind := range kinds {
		c := p.dial(t)
		c.ask(kind, "/websocket", "CDN-Loop: edge.example; v=1")
		lines := relay.next(t).Header["Cdn-Loop"]
		c.close()
		if len(lines) != 2 || lines[0] != "edge.example; v=1" || !strings.HasPrefix(lines[1], "watchrtc-proxy-") {
			t.Errorf("%s: CDN-Loop %q", kind, lines)
		}
	}
}

// TestSiteHeaders has a site that sets fields which the relay sends too: none comes
// twice.
func TestSiteHeaders(t *testing.T) {
	for _, test := range []struct{ name, header, origin string }{
		{"before", "header {\nAccess-Control-Allow-Origin *\nVary Accept-Language\nX-Site 1\n}", "https://page.example"},
		{"deferred", "header {\nAccess-Control-Allow-Origin *\nX-Site 1\ndefer\n}\nheader Vary Accept-Language", "*"},
	} {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", "https://page.example")
			w.Header().Set("Vary", "Origin")
			if r.Method == "GET" {
				accept101(t, w, r, "Upgrade")
			}
		})
		s := mount(relay.URL, "")
		s.body += "\n" + test.header
		p := start(t, s)
		for _, kind := range kinds {
			c := p.dial(t)
			header := c.ask(kind, "/websocket", "Origin: https://page.example").Header
			c.close()
			wantLine(t, test.name+" "+kind, header, "Access-Control-Allow-Origin", test.origin)
			wantLine(t, test.name+" "+kind, header, "X-Site", "1")
			wantLines(t, test.name+" "+kind, header, "Vary", "Accept-Language", "Origin")
		}
	}
}
