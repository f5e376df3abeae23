package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// The requests to which FuzzFromRelay's relays respond: each takes another way to them.
var fuzzAsked = []struct{ method, target, rest string }{
	{"GET", "/websocket", strings.Join(wstest.HandshakeFields(wstest.SampleKey), "\r\n") + "\r\n\r\n"},
	{"POST", "/websocket/trace", "Content-Length: 2\r\n\r\n{}"},
	{"POST", "/websocket/trace", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"},
	{"HEAD", "/websocket/get-qualityrtc-config", "\r\n"},
}

// FuzzFromRelay has a relay send any bytes. The client gets of it one response, whole or
// seen to be broken off, that is the relay's or a 502: without the fields that must not
// cross, in the sandbox, and a 101 only where the relay's accepts the handshake. What is
// too much reaches nobody, not even the next client, where kept has the relay keep the
// connection.
func FuzzFromRelay(f *testing.F) {
	relay := newSayingRelay(f)
	p := start(f, fuzzSite(relay.addr))
	never := documentedNames(f, "| never passed back |")
	f.Fuzz(func(t *testing.T, says string, asked uint, kept bool) {
		if len(says) > maxFuzzed {
			return
		}
		request := fuzzAsked[asked%uint(len(fuzzAsked))]
		want := readSaid(says, request.method)
		relay.says.Store(&script{says, kept && want.framed})

		c, _ := newFuzzClient(t, p)
		defer c.Drop()
		c.WriteText(request.method + " " + request.target + " HTTP/1.1\r\nHost: proxy.example\r\n" + request.rest)
		got := readGot(t, c, request.method, never)
		got.compare(t, want, asksUpgrade(readRequests(request.method + " / HTTP/1.1\r\nHost: h\r\n" + request.rest)[0].Header))
		next(t, p, kept)
		checkFuzzLogs(t, p)
	})
}

// sayingRelay sends what it is told to, and "next" if it is asked for that.
type sayingRelay struct {
	addr string
	says atomic.Pointer[script]
}

type script struct {
	text string
	keep bool // the connection
}

const nextTarget = "/next"

func newSayingRelay(f *testing.F) *sayingRelay {
	r := new(sayingRelay)
	r.addr = fuzzListener(f, r.serve)
	return r
}

func (r *sayingRelay) serve(conn net.Conn) {
	reader := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		says := &script{"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext", true}
		if request.URL.Path != "/base"+nextTarget {
			says = r.says.Load()
		}
		io.WriteString(conn, says.text)
		if !says.keep {
			conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, reader)
			return
		}
	}
}

// next has another client ask for what nothing of the relay's earlier words may be. If
// the relay has not kept its connection, the proxy may learn that only when it asks, and
// does not ask twice.
func next(t *testing.T, p *proxy, kept bool) {
	status, body := askNext(t, p)
	if status == http.StatusBadGateway && !kept {
		status, body = askNext(t, p)
	}
	if status != http.StatusOK || body != "next" {
		t.Errorf("the next client: status %d, body %q", status, body)
	}
}

func askNext(t *testing.T, p *proxy) (status int, body string) {
	c, _ := newFuzzClient(t, p)
	defer c.Drop()
	c.WriteText("POST /websocket" + nextTarget + " HTTP/1.1\r\nHost: proxy.example\r\nContent-Length: 2\r\n\r\n{}")
	response, err := readFinal(c, "POST")
	if err != nil {
		t.Fatalf("the next client: %v", err)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Errorf("the next client: %v", err)
	}
	return response.StatusCode, string(text)
}

// said is the response that net/http reads in what a relay says.
type said struct {
	*http.Response
	err    error // there is none
	body   string
	broken error  // the body is cut off
	rest   string // what comes after the head of a 101, or after a whole response
	framed bool   // it ends by itself, and not with the connection
}

func readSaid(text, method string) (s said) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		s.Response, s.err = http.ReadResponse(r, &http.Request{Method: method})
		if s.err != nil {
			return s
		}
		if s.StatusCode < 100 || s.StatusCode > 199 || s.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	if s.StatusCode != http.StatusSwitchingProtocols {
		s.framed = !s.Close
		body, err := io.ReadAll(s.Body)
		s.body, s.broken = string(body), err
	}
	rest, _ := io.ReadAll(r)
	s.rest = string(rest)
	s.framed = s.framed && s.broken == nil
	return s
}

// accepts reports whether s is a 101 that accepts the handshake of fuzzAsked.
func (s said) accepts() bool {
	return s.err == nil && s.StatusCode == http.StatusSwitchingProtocols &&
		slices.Equal(s.Header["Sec-Websocket-Accept"], []string{wstest.SampleAccept}) && asksUpgrade(s.Header)
}

var statusLine = regexp.MustCompile(`^HTTP/1\.1 [1-9][0-9][0-9] [^\x00-\x1f\x7f]*$`)

// readGot reads all that a client gets, and checks what holds whatever the relay says.
func readGot(t *testing.T, c *wstest.Conn, method string, never names) (s said) {
	var final string // the head of the last response
	for {
		h, text, err := readHead(c.R)
		if err != nil {
			t.Fatalf("not a response: %v", err)
		}
		checkResponseHead(t, h, text, never)
		if s.Response, err = http.ReadResponse(bufio.NewReader(strings.NewReader(text)), &http.Request{Method: method}); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if final = text; s.StatusCode >= 200 || s.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	if s.StatusCode == http.StatusSwitchingProtocols {
		c.CloseWrite()
		rest, err := c.ReadToEnd()
		s.rest, s.broken = string(rest), err
		return s
	}
	r := bufio.NewReader(io.MultiReader(strings.NewReader(final), c.R))
	if s.Response, s.err = http.ReadResponse(r, &http.Request{Method: method}); s.err != nil {
		t.Fatal(s.err)
	}
	body, err := io.ReadAll(s.Body)
	s.body, s.broken = string(body), err
	if name := never.find(fieldNames(s.Trailer)...); name != "" {
		t.Errorf("%s crosses in a trailer", name)
	}
	c.CloseWrite()
	rest, _ := io.ReadAll(r)
	if s.rest = string(rest); s.rest != "" && s.broken == nil {
		t.Errorf("%q comes after the response", s.rest)
	}
	return s
}

func fieldNames(header http.Header) (names []string) {
	for name := range header {
		names = append(names, name)
	}
	return names
}

// hopFields concern one connection only, and no response of ours has them.
var hopFields = names{"Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Keep-Alive", "TE"}

func checkResponseHead(t *testing.T, h head, text string, never names) {
	t.Helper()
	if !statusLine.MatchString(h.start) {
		t.Errorf("not a status line: %q", h.start)
	}
	if err := h.framing(); err != nil {
		t.Errorf("%v in\n%s", err, text)
	}
	if name := append(hopFields, never...).find(h.fields...); name != "" {
		t.Errorf("%s crosses in\n%s", name, text)
	}
}

// compare checks what a client got of what the relay said.
func (s said) compare(t *testing.T, want said, upgrade bool) {
	t.Helper()
	switch {
	case s.StatusCode == http.StatusSwitchingProtocols:
		if !upgrade || !want.accepts() {
			t.Errorf("a 101 out of nothing")
		} else if s.rest != want.rest {
			t.Errorf("%q comes through the WebSocket (%v), want %q", s.rest, s.broken, want.rest)
		}
		return
	case s.StatusCode == http.StatusBadGateway && s.Header.Get("Content-Security-Policy") == "":
		return // the proxy's own
	}
	for name, value := range map[string]string{"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"} {
		wantLines(t, fmt.Sprint("status ", s.StatusCode), s.Header, name, value)
	}
	switch {
	case want.err != nil:
		t.Errorf("status %d out of nothing: %v", s.StatusCode, want.err)
	case s.StatusCode != want.StatusCode:
		t.Errorf("status %d, want %d", s.StatusCode, want.StatusCode)
	case s.broken == nil && want.broken != nil:
		t.Errorf("body %q is whole, the relay broke off: %v", s.body, want.broken)
	case s.broken != nil && want.broken == nil:
		t.Errorf("body %q is broken off (%v), want %q", s.body, s.broken, want.body)
	case !strings.HasPrefix(want.body, s.body) || s.broken == nil && s.body != want.body:
		t.Errorf("body %q, want %q", s.body, want.body)
	}
}
