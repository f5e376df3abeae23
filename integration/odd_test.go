package integration_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestOddStatuses has statuses that nothing can be done with.
func TestOddStatuses(t *testing.T) {
	for way, options := range transportWays() {
		for _, status := range []string{"000", "001", "099"} {
			addr := rawRelay(t, func(c *wstest.Conn) {
				if _, err := c.ReadRequest(); err == nil {
					c.WriteText("HTTP/1.1 " + status + " Odd\r\nContent-Length: 0\r\n\r\n")
				}
			}).Addr
			p := start(t, mount("wss://"+addr, options))
			for _, kind := range kinds {
				c := p.dial(t)
				wantRefusal(t, way+" "+status+" "+kind, c.try(kind, "/websocket", "Origin: https://page.example"), http.StatusBadGateway)
				c.close()
			}
			p.stop(t)
		}
	}
}

// TestNoInformationalInHTTP10: HTTP/1.0 has no 1xx responses.
func TestNoInformationalInHTTP10(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "relay")
	})
	p := start(t, mount(relay.URL, ""))
	c := p.dial(t)
	c.write("POST /websocket/trace HTTP/1.0\r\nHost: proxy.example\r\nContent-Length: 2\r\n\r\n{}")
	response := c.response("POST")
	if body, err := io.ReadAll(response.Body); response.StatusCode != http.StatusOK || string(body) != "relay" || err != nil {
		t.Errorf("status %d, body %q (%v)", response.StatusCode, body, err)
	}
}

// TestSpaceInPath has what HTTP/2 lets through and HTTP/1.1 does not.
func TestSpaceInPath(t *testing.T) {
	lines := make(chan string, 1)
	addr := rawRelay(t, func(c *wstest.Conn) {
		head, _ := c.ReadHead()
		line, _, _ := strings.Cut(head, "\r\n")
		lines <- line
		c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}).Addr
	p := start(t, mount("wss://"+addr, ""))
	conn, err := tls.Dial("tcp", p.addr, authority.ClientConfig("localhost", "h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.WriteSettings()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "proxy.example"}, {":path", "/websocket/a b?c=d e&f=%20+"}} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	select {
	case line := <-lines:
		if want := "GET /a%20b?c=d%20e&f=%20+ HTTP/1.1"; line != want {
			t.Errorf("the relay gets %q, want %q", line, want)
		}
	case <-time.After(patience):
		t.Error("the relay gets nothing")
	}
}

// TestUnannouncedRequestTrailers sends trailers that were not announced, among others
// that were, and some that must not cross.
func TestUnannouncedRequestTrailers(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", "Trailer: X-Sum")
	c.write("2\r\n{}\r\n0\r\nX-Sum: 1\r\nX-Late: 2\r\nCookie: a=b\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n")
	c.wantStatus(c.response("POST"), http.StatusOK)
	seen := relay.next(t)
	if len(seen.Trailer) != 2 || seen.Trailer.Get("X-Sum") != "1" || seen.Trailer.Get("X-Late") != "2" {
		t.Errorf("the relay got the trailers %v", seen.Trailer)
	}
}

// TestFallbackGetsBody has another proxy take over in handle_errors.
func TestFallbackGetsBody(t *testing.T) {
	got := make(chan string, 1)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}))
	defer other.Close()
	s := mount("wss://"+wstest.DeadAddr(t), "")
	s.body += "\nhandle_errors {\nreverse_proxy " + other.Listener.Addr().String() + "\n}"
	p := start(t, s)
	large := strings.Repeat("x", 100_000)
	for _, test := range []struct{ field, body, want string }{
		{"Content-Length: 5", "small", "small"},
		{"Content-Length: 100000", large, large},
		{"Transfer-Encoding: chunked", "3\r\nbit\r\n0\r\n\r\n", "bit"},
	} {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", test.field)
		c.write(test.body)
		c.wantStatus(c.response("POST"), http.StatusOK)
		if body := <-got; body != test.want {
			t.Errorf("%s: the fallback gets %d bytes, want %d", test.field, len(body), len(test.want))
		}
		c.close()
	}
}

// TestFallbackGetsNoPart: what is left of a body that another reader has begun is no body.
// A fallback that takes it for whole has another request than the client's.
func TestFallbackGetsNoPart(t *testing.T) {
	got := make(chan string, 1)
	fallback := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			got <- string(body)
		}
	})
	reset := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.R.Peek(1)
		c.Reset()
	}).Addr
	const begin, end = "5\r\nfirst\r\n", "6\r\nsecond\r\n5\r\nthird\r\n0\r\n\r\n"
	for name, test := range map[string]struct{ relay, options string }{
		"relay resets":  {"wss://" + reset, ""},
		"max_body_size": {newRelay(t, nil).URL, "max_body_size 10"},
	} {
		s := mount(test.relay, test.options)
		s.body += "\nhandle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"
		p := start(t, s)
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
		c.write(begin)
		if name == "relay resets" {
			p.logs.wait(t, 1, `"relay failed"`, reset)
		}
		c.write(end)
		response := c.response("POST")
		select {
		case body := <-got:
			t.Errorf("%s: status %d; the fallback takes %q for the whole body", name, response.StatusCode, body)
		default:
		}
		c.close()
		p.stop(t)
	}
}

// TestFallbackGetsSlowBody: a client that takes more than a second for its upload has it in
// the fallback all the same, when no relay could be reached.
func TestFallbackGetsSlowBody(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		begun, got := make(chan bool, 1), make(chan string, 1)
		fallback := serve(t, func(w http.ResponseWriter, r *http.Request) {
			begun <- true
			body, err := io.ReadAll(r.Body)
			got <- fmt.Sprintf("%d bytes, %v", len(body), err)
		})
		s := mount("wss://" + wstest.DeadAddr(t))
		s.body += "\nhandle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"
		p := start(t, s)
		body, upload := io.Pipe()
		go func() {
			io.WriteString(upload, strings.Repeat("x", 50_000))
			<-begun
			<-time.After(1500 * time.Millisecond) // longer than an abandoned body is read
			io.WriteString(upload, strings.Repeat("x", 50_000))
			upload.Close()
		}()
		response := do(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), body))
		wantStatus(t, response, http.StatusOK)
		if body := await(t, got, "request to the fallback"); body != "100000 bytes, <nil>" {
			t.Errorf("the fallback gets %s", body)
		}
	})
}

// TestOperationReadsSlowBody: what header_up reads of a body takes the client's time, not the
// relay's.
func TestOperationReadsSlowBody(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, "header_up X-Body {http.request.body}", "handshake_timeout 200ms"))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Content-Length: 100000")
	c.write(strings.Repeat("x", 50_000))
	<-time.After(500 * time.Millisecond) // longer than handshake_timeout
	c.write(strings.Repeat("x", 50_000))
	c.wantStatus(c.response("POST"), http.StatusBadRequest) // nothing of it is left to be sent
	if lines, _ := p.logs.matching("relay failed", strings.TrimPrefix(relay.URL, "https://")); len(lines) > 0 {
		t.Errorf("the relay is blamed: %v", lines)
	}
}

// TestDotSegments: what a relay makes of dots must not lead out of its base path,
// behind Caddy's path matcher, which resolves some of them, and without it.
func TestDotSegments(t *testing.T) {
	relay := newRelay(t, nil)
	t.Run("matcher", func(t *testing.T) {
		checkDotSegments(t, start(t, mount(relay.URL+"/base", "")), relay)
	})
	t.Run("path_prefix", func(t *testing.T) {
		checkDotSegments(t, startJSON(t, handlerJSON(relay.URL+"/base", `"path_prefix": "/websocket"`)), relay)
	})
}

func checkDotSegments(t *testing.T, p *proxy, relay *relay) {
	for path, allowed := range map[string]bool{
		"/websocket/../x": false, "/websocket/%2e%2E/x": false, "/websocket/a/../../x": false, "/websocket/..%2fx": false,
		`/websocket/..\x`: false, "/websocket/a//../../x": false, "/websocket/./..": false,
		// Two segments to whoever unescapes first or takes \ for /, and one to all others.
		"/websocket/a%2Fb/../../x": false, "/websocket/a%5Cb/../../x": false, `/websocket/a\b/../../x`: false,
		// One of two dots to servers that take what follows a ; for a parameter of the segment.
		"/websocket/..;/x": false, "/websocket/..;a=b/x": false, "/websocket/a/..;/..;/x": false, "/websocket/;a/../x": false,
		"/websocket/a;b/..;/x": true,
		"/websocket/a/../x":    true, "/websocket/..x": true, "/websocket/a/..b/x": true,
	} {
		c := p.dial(t)
		c.request("GET", path)
		response := c.response("GET")
		switch {
		case allowed:
			c.wantStatus(response, http.StatusOK)
			relay.next(t)
		case relay.saw():
			t.Errorf("%s: the relay sees %s", path, relay.next(t).RequestURI)
		}
		c.close()
	}
}

// TestPostGets101: nobody asked for it.
func TestPostGets101(t *testing.T) {
	for way, options := range transportWays() {
		addr := rawRelay(t, func(c *wstest.Conn) {
			c.ReadRequest()
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", wstest.SampleAccept)
			c.ReadToEnd()
		}).Addr
		p := start(t, mount("wss://"+addr, options))
		c := p.dial(t)
		wantRefusal(t, way, c.try("POST", "/websocket", "Origin: https://page.example"), http.StatusBadGateway)
		c.close()
		p.stop(t)
	}
}
