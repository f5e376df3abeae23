package integration_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// relayProtocols runs a test with relays that speak HTTP/1.1 and HTTP/2. What goes
// to a relay in chunks or is large takes Caddy's transport and so HTTP/2 where
// there is.
func relayProtocols(t *testing.T, test func(t *testing.T, options ...func(*httptest.Server))) {
	t.Run("HTTP1", func(t *testing.T) { test(t) })
	t.Run("HTTP2", func(t *testing.T) { test(t, withHTTP2) })
}

// TestResponseStreams has a relay that sends the rest of its response only when the
// client has got the beginning.
func TestResponseStreams(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		got := make(chan bool)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/length" {
				w.Header().Set("Content-Length", "10")
			}
			for _, piece := range []string{"begin", "-end-"} {
				io.WriteString(w, piece)
				http.NewResponseController(w).Flush()
				<-got
			}
		}, options...)
		p := start(t, mount(relay.URL, ""))
		for _, method := range []string{"GET", "POST"} {
			c := p.dial(t)
			c.request(method, "/websocket/chunks", "Content-Length: 0")
			response := c.response(method)
			for _, want := range []string{"begin", "-end-"} {
				piece := make([]byte, 5)
				if _, err := io.ReadFull(response.Body, piece); err != nil || string(piece) != want {
					t.Fatalf("%s: got %q (%v), want %q", method, piece, err, want)
				}
				got <- true
			}
			if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
				t.Errorf("%s: %q (%v) after the end", method, rest, err)
			}
		}
	})
}

// TestRequestStreams has a client that sends the rest of its body only when the
// relay has got the beginning.
func TestRequestStreams(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		got := make(chan string)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			piece := make([]byte, 5)
			for {
				n, err := io.ReadFull(r.Body, piece)
				if err != nil {
					return
				}
				got <- string(piece[:n])
			}
		}, options...)
		p := start(t, mount(relay.URL, ""))
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
		for _, piece := range []string{"begin", "-end-"} {
			c.write("5\r\n" + piece + "\r\n")
			select {
			case seen := <-got:
				if seen != piece {
					t.Errorf("the relay saw %q, want %q", seen, piece)
				}
			case <-time.After(patience):
				t.Fatalf("the relay does not see %q before the request ends", piece)
			}
		}
		c.write("0\r\n\r\n")
		c.wantStatus(c.response("POST"), http.StatusOK)
	})
}

// TestTrailers sends trailers both ways, among them some that must not cross.
func TestTrailers(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum, Set-Cookie, Clear-Site-Data")
			io.WriteString(w, "response")
			w.Header().Set("X-Sum", "2")
			w.Header().Set("Set-Cookie", "relay=1")
			w.Header().Set("Clear-Site-Data", `"*"`)
			w.Header().Set(http.TrailerPrefix+"X-Late", "3")
		}, options...)
		p := start(t, mount(relay.URL, ""))
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", "TE: trailers", "Connection: TE",
			"Trailer: X-Sum, Cookie, Authorization, X-Forwarded-For, Forwarded")
		c.write("2\r\n{}\r\n0\r\nX-Sum: 1\r\nCookie: a=b\r\nAuthorization: x\r\nX-Forwarded-For: 203.0.113.1\r\nForwarded: for=203.0.113.1\r\n\r\n")
		response := c.response("POST")
		c.wantStatus(response, http.StatusOK)
		body, err := io.ReadAll(response.Body)
		if err != nil || string(body) != "response" {
			t.Errorf("body %q (%v)", body, err)
		}
		if len(response.Trailer) != 2 || response.Trailer.Get("X-Sum") != "2" || response.Trailer.Get("X-Late") != "3" {
			t.Errorf("the client got the trailers %v", response.Trailer)
		}
		seen := relay.next(t)
		if len(seen.Trailer) != 1 || seen.Trailer.Get("X-Sum") != "1" {
			t.Errorf("the relay got the trailers %v", seen.Trailer)
		}
		if seen.body != "{}" {
			t.Errorf("the relay got the body %q", seen.body)
		}
	})
}

// TestClientGone shows that the relay's work ends with the client's interest in it.
func TestClientGone(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		begun, ended := make(chan bool), make(chan bool)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/responding" {
				io.WriteString(w, "begin")
				http.NewResponseController(w).Flush()
			}
			begun <- true
			<-r.Context().Done()
			ended <- true
		}, options...)
		p := start(t, mount(relay.URL, ""))
		for _, target := range []string{"/websocket/waiting", "/websocket/responding"} {
			for _, body := range []string{"Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"} {
				c := p.dial(t)
				c.write("POST " + target + " HTTP/1.1\r\nHost: proxy.example\r\n" + body)
				<-begun
				c.close()
				select {
				case <-ended:
				case <-time.After(patience):
					t.Fatalf("%s: the relay's request goes on", target)
				}
			}
		}
	})
}

// TestRelayBreaksOff shows that a response that the relay does not finish does not
// look finished.
func TestRelayBreaksOff(t *testing.T) {
	for _, head := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err == nil {
				c.WriteText("HTTP/1.1 200 OK\r\n" + head + "\r\n\r\n5\r\nabc")
			}
		}).Addr
		p := start(t, mount("wss://"+addr, ""))
		c := p.dial(t)
		c.request("POST", "/websocket", "Content-Length: 0")
		response, err := http.ReadResponse(c.R, nil)
		if err == nil {
			_, err = io.ReadAll(response.Body)
		}
		if err == nil {
			t.Errorf("%s: the client takes the response for whole", head)
		}
		p.stop(t)
	}
}

// TestInformational passes 1xx responses on, without what must not cross.
func TestInformational(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.Header().Set("Set-Cookie", "relay=1")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			io.WriteString(w, "response")
		}, options...)
		p := start(t, mount(relay.URL, ""))
		for _, length := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
			c := p.dial(t)
			c.request("POST", "/websocket/trace", length)
			c.write("0\r\n\r\n")
			response := c.response("POST")
			c.wantStatus(response, http.StatusEarlyHints)
			wantLine(t, length, response.Header, "Link", "</style.css>; rel=preload")
			wantLine(t, length, response.Header, "Set-Cookie", "")
			response = c.response("POST")
			c.wantStatus(response, http.StatusOK)
			wantLine(t, length, response.Header, "Link", "")
			if body, err := io.ReadAll(response.Body); err != nil || string(body) != "response" {
				t.Errorf("%s: body %q (%v)", length, body, err)
			}
		}
	})
}

// TestExpectContinue has a client that sends its body only when it is asked to.
func TestExpectContinue(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		relay := newRelay(t, nil, options...)
		p := start(t, mount(relay.URL, ""))
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Expect: 100-continue", "Content-Length: 2")
		c.wantStatus(c.response("POST"), http.StatusContinue)
		c.write("{}")
		c.wantStatus(c.response("POST"), http.StatusOK)
		if body := relay.next(t).body; string(body) != "{}" {
			t.Errorf("the relay got %q", body)
		}
	})
}

// TestPreflight passes CORS preflights on: it is the relay that allows.
func TestPreflight(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Methods", "POST")
		w.WriteHeader(http.StatusNoContent)
	})
	p := start(t, mount(relay.URL, ""))
	c := p.dial(t)
	c.request("OPTIONS", "/websocket/trace", "Origin: https://page.example",
		"Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type")
	response := c.response("OPTIONS")
	c.wantStatus(response, http.StatusNoContent)
	wantLine(t, "OPTIONS", response.Header, "Access-Control-Allow-Origin", "*")
	wantLine(t, "OPTIONS", response.Header, "Access-Control-Allow-Methods", "POST")
	seen := relay.next(t)
	if seen.Method != "OPTIONS" || seen.RequestURI != "/trace" {
		t.Errorf("the relay saw %s %s", seen.Method, seen.RequestURI)
	}
	wantLine(t, "OPTIONS", seen.Header, "Origin", "https://page.example")
	wantLine(t, "OPTIONS", seen.Header, "Access-Control-Request-Method", "POST")
	wantLine(t, "OPTIONS", seen.Header, "Access-Control-Request-Headers", "content-type")
}

// TestBodiless has responses without a body, whose framing is special. That each is
// followed by another on the same connection shows that the framing is right.
func TestBodiless(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Header().Set("Content-Length", "1234")
			w.Write(make([]byte, 1234))
		}
	})
	p := start(t, mount(relay.URL, ""))
	c := p.dial(t)
	for range 2 {
		for _, test := range []struct {
			method, target string
			status         int
			length, body   int64
		}{
			{"HEAD", "/websocket/get-qualityrtc-config", 200, 1234, 0},
			{"GET", "/websocket/get-qualityrtc-config", 200, 1234, 1234},
			{"GET", "/websocket/204", 204, 0, 0},
			{"GET", "/websocket/304", 304, 0, 0},
			{"HEAD", "/websocket/304", 304, 0, 0},
			{"DELETE", "/websocket/204", 204, 0, 0},
		} {
			c.request(test.method, test.target)
			response := c.response(test.method)
			c.wantStatus(response, test.status)
			n, err := io.Copy(io.Discard, response.Body)
			if n != test.body || err != nil || test.length > 0 && response.ContentLength != test.length {
				t.Errorf("%s %s: length %d, %d bytes (%v)", test.method, test.target, response.ContentLength, n, err)
			}
			wantLine(t, test.target, response.Header, "Etag", `"1"`)
			if seen := relay.next(t); seen.Method != test.method {
				t.Errorf("the relay saw %s, want %s", seen.Method, test.method)
			}
		}
	}
}

// TestEncodingUntouched has a body that neither end wants decoded.
func TestEncodingUntouched(t *testing.T) {
	packed := []byte("\x1f\x8bno gzip at all")
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(packed)
	})
	p := start(t, mount(relay.URL, ""))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Accept-Encoding: gzip, br", "Content-Encoding: gzip", "Content-Length: 16")
	c.write(string(packed))
	response := c.response("POST")
	body, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Equal(body, packed) {
		t.Errorf("the client got %q (%v)", body, err)
	}
	wantLine(t, "response", response.Header, "Content-Encoding", "gzip")
	seen := relay.next(t)
	wantLine(t, "request", seen.Header, "Accept-Encoding", "gzip, br")
	if seen.body != string(packed) {
		t.Errorf("the relay got %q", seen.body)
	}
}

// TestNoReplay has a relay that hangs up on the second request of a connection: it
// may have acted on it, so it must not see it again.
func TestNoReplay(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "POST"} {
		var seen atomic.Int64
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			seen.Add(1)
			c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			if _, err := c.ReadRequest(); err == nil {
				seen.Add(1)
			}
		}).Addr
		p := start(t, mount("wss://"+addr, ""))
		c := p.dial(t)
		for _, want := range []int{http.StatusOK, http.StatusBadGateway} {
			c.request(method, "/websocket", "Content-Length: 0")
			c.wantStatus(c.response(method), want)
		}
		if n := seen.Load(); n != 2 {
			t.Errorf("%s: the relay saw %d requests, want 2", method, n)
		}
		p.stop(t)
	}
}

// TestNoReplayInChunks is the same for what takes Caddy's transport.
func TestNoReplayInChunks(t *testing.T) {
	var seen atomic.Int64
	addr := rawRelay(t, func(c *wstest.Conn) {
		for i := range 2 {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			if seen.Add(1); i == 0 {
				c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}
	}).Addr
	p := start(t, mount("wss://"+addr, ""))
	c := p.dial(t)
	for _, want := range []int{http.StatusOK, http.StatusBadGateway} {
		c.request("PUT", "/websocket", "Transfer-Encoding: chunked")
		c.write("2\r\n{}\r\n0\r\n\r\n")
		c.wantStatus(c.response("PUT"), want)
	}
	if n := seen.Load(); n != 2 {
		t.Errorf("the relay saw %d requests, want 2", n)
	}
}

// TestSlowClient shows that handshake_timeout leaves out the time that a client
// takes: a request that begins later has timed out before this one's body ends.
func TestSlowClient(t *testing.T) {
	relay := newRelay(t, nil)
	silent := rawRelay(t, func(c *wstest.Conn) { c.ReadToEnd() }).Addr
	p := start(t, site{body: directive("/websocket", relay.URL, "handshake_timeout 100ms") + "\n" +
		directive("/silent", "wss://"+silent, "handshake_timeout 100ms")})
	big := strings.Repeat("x", 100_000)
	for _, test := range []struct{ field, begin, end string }{
		{"Content-Length: 2", "{", "}"},
		{"Content-Length: 100000", big[:50_000], big[50_000:]},
		{"Transfer-Encoding: chunked", "1\r\n{\r\n", "1\r\n}\r\n0\r\n\r\n"},
	} {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", test.field)
		c.write(test.begin)
		other := p.dial(t)
		other.wantStatus(other.try("POST", "/silent"), http.StatusGatewayTimeout)
		c.write(test.end)
		c.wantStatus(c.response("POST"), http.StatusOK)
		relay.next(t)
	}
}
