package integration_test

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// These are the scenarios of nginx-tests, of its proxy_*.t, stream_proxy_half_close.t and
// those of upgraded connections.

// TestNginxProxy (proxy.t): a response in one piece, in several, without a body, and one
// that takes its time; the client's address.
func TestNginxProxy(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		proceed := make(chan bool, 1)
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/multi":
				io.WriteString(w, "SEE-THIS")
				flush(w)
				io.WriteString(w, "-AND-THIS")
			case "/slow":
				<-proceed
				io.WriteString(w, "SLOW")
			default:
				io.WriteString(w, "SEE-THIS")
			}
		})
		p := start(t, mount(relay.URL))
		client := p.client(t, protocol)
		for _, test := range []struct{ method, path, want string }{
			{"GET", "/", "SEE-THIS"}, {"GET", "/multi", "SEE-THIS-AND-THIS"}, {"HEAD", "/", ""}, {"GET", "/slow", "SLOW"},
		} {
			proceed <- true
			_, body := ask(t, client, request(t, test.method, p.url("/websocket"+test.path), nil, "X-Forwarded-For: 192.0.2.1"))
			wantBody(t, body, test.want)
			wantField(t, relay.next(t).Header, "X-Forwarded-For", "192.0.2.1, 127.0.0.1")
			select {
			case <-proceed:
			default:
			}
		}
	})
}

// responses runs requests against relays that send exactly what wire says.
func responses(t *testing.T, tests map[string]response) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				relay := respondWith(t, test.wire, test.close)
				p := start(t, mount(https(relay)))
				method := test.method
				if method == "" {
					method = http.MethodGet
				}
				got := do(t, p.client(t, protocol), request(t, method, p.url("/websocket/trace"), nil))
				wantStatus(t, got, test.status)
				if test.status == http.StatusBadGateway {
					return
				}
				body, err := io.ReadAll(got.Body)
				wantBody(t, string(body), test.body)
				if (err != nil) != test.broken {
					t.Errorf("the body's end: %v, want an error: %t", err, test.broken)
				}
			})
		})
	}
}

// response is what a relay sends, and what must come of it.
type response struct {
	wire   string
	close  bool // the relay closes the connection
	method string
	status int
	body   string
	broken bool
}

// TestNginxChunked (proxy_chunked.t, proxy_chunked_extra.t): chunks, and nothing of what
// comes after the last.
func TestNginxChunked(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
	chunk := func(c string, n int) string { return fmt.Sprintf("%x\r\n%s\r\n", n, strings.Repeat(c, n)) }
	responses(t, map[string]response{
		"chunked": {wire: head + "8\r\nSEE-THIS\r\n0\r\n\r\n", close: true, status: 200, body: "SEE-THIS"},
		"with extra data": {
			wire:  head + chunk("x", 128) + chunk("y", 117) + "0\r\n\r\n" + chunk("z", 117) + "0\r\n\r\n",
			close: true, status: 200, body: strings.Repeat("x", 128) + strings.Repeat("y", 117),
		},
	})
}

// TestNginxConnectionHeaders (proxy_connection_headers.t): Upgrade stays where a tunnel
// begins, and goes elsewhere, as it concerns the relay's connection.
func TestNginxConnectionHeaders(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		for _, status := range []string{"200 OK", "426 Upgrade Required"} {
			relay := respondWith(t, "HTTP/1.1 "+status+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", false)
			p := start(t, mount(https(relay)))
			response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
			if !strings.HasPrefix(response.Status, status[:3]) {
				t.Errorf("status %s, want %s", response.Status, status)
			}
			wantField(t, response.Header, "Upgrade", "")
			p.stop(t)
		}
		if protocol == http1 {
			relay := rawRelay(t, nil)
			p := start(t, mount(https(relay)))
			client, _ := connect(t, p, relay, protocol)
			wantField(t, client.Header, "Upgrade", "websocket")
		}
	})
}

// TestNginxDuplicateHeaders (proxy_duplicate_headers.t): a length that two readers could
// read differently is no response. One that RFC 9112, section 6.3 makes plain is, and
// reaches the client without the doubt.
func TestNginxDuplicateHeaders(t *testing.T) {
	wire := func(lines ...string) string { return "HTTP/1.1 200 OK\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n" }
	const length, chunked = "Content-Length: 0", "Transfer-Encoding: chunked"
	responses(t, map[string]response{
		"normal":                      {wire: wire(length), status: 200},
		"invalid length":              {wire: wire("Content-Length: foo"), status: 502},
		"negative length":             {wire: wire("Content-Length: -1"), status: 502},
		"different lengths":           {wire: wire("Content-Length: 1", "Content-Length: 2"), status: 502},
		"the same length twice":       {wire: wire(length, length), status: 200},
		"unknown Transfer-Encoding":   {wire: wire("Transfer-Encoding: foo"), status: 502},
		"duplicate Transfer-Encoding": {wire: wire(chunked, chunked) + "0\r\n\r\n", status: 502},
		"length and chunked":          {wire: wire("Content-Length: 5", chunked) + "0\r\n\r\n", status: 200},
		"chunked and length":          {wire: wire(chunked, "Content-Length: 5") + "0\r\n\r\n", status: 200},
	})
	t.Run("duplicate Expires", func(t *testing.T) {
		relay := respondWith(t, wire(length, "Expires: foo", "Expires: bar"), false)
		p := start(t, mount(https(relay)))
		response, _ := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil))
		wantField(t, response.Header, "Expires", "foo, bar")
	})
}

// TestNginxEarlyHints (proxy_early_hints.t): a 103 goes before the response; with no
// response after it there is none; HTTP/1.0 has no such thing.
func TestNginxEarlyHints(t *testing.T) {
	const early = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
	const final = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSEE-THIS"
	overHTTP(t, func(t *testing.T, protocol string) {
		p := start(t, mount(https(respondWith(t, early+final, false))))
		r, seen := hints(request(t, "GET", p.url("/websocket/trace"), nil))
		_, body := ask(t, p.client(t, protocol), r)
		wantBody(t, body, "SEE-THIS")
		if got := seen(); len(got) != 1 || got[0].header.Get("Link") == "" {
			t.Errorf("1xx responses %v", got)
		}
	})
	t.Run("only", func(t *testing.T) {
		overHTTP(t, func(t *testing.T, protocol string) {
			p := start(t, mount(https(respondWith(t, early, true))))
			response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
			wantStatus(t, response, http.StatusBadGateway)
		})
	})
	t.Run("HTTP/1.0", func(t *testing.T) {
		p := start(t, mount(https(respondWith(t, early+final, false))))
		c := p.dial(t)
		c.write("GET /websocket/trace HTTP/1.0\r\nHost: localhost\r\n\r\n")
		response := c.response("GET")
		wantStatus(t, response, http.StatusOK)
	})
}

// TestNginxExtraData (proxy_extra_data.t, proxy_available.t, proxy_noclose.t): the length
// counts, whatever else comes and whether or not the relay closes the connection.
func TestNginxExtraData(t *testing.T) {
	head := func(n int) string { return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n) }
	responses(t, map[string]response{
		"response with extra data": {wire: head(8) + "SEE-THIS-BUT-NOT-THIS", close: true, status: 200, body: "SEE-THIS"},
		"zero size":                {wire: head(0) + "NOT-THIS", close: true, status: 200},
		"too short":                {wire: head(100) + "SEE-THIS-TOO-SHORT", close: true, status: 200, body: "SEE-THIS-TOO-SHORT", broken: true},
		"empty too short":          {wire: head(100), close: true, status: 200, broken: true},
		"HEAD":                     {wire: head(8), method: "HEAD", status: 200},
		"HEAD with data":           {wire: head(8) + "SEE-THIS", method: "HEAD", close: true, status: 200},
		"HEAD with extra data":     {wire: head(8) + "SEE-THIS-BUT-NOT-THIS", method: "HEAD", close: true, status: 200},
		"length used as a hint":    {wire: head(8) + "SEE-THIS", status: 200, body: "SEE-THIS"},
		"no length":                {wire: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nSEE-THIS", close: true, status: 200, body: "SEE-THIS"},
	})
}

// TestNginxInterceptErrors (proxy_intercept_errors.t): the relay's errors are its own, and
// no error page takes their place.
func TestNginxInterceptErrors(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			status := map[string]int{"/404": 404, "/500": 500, "/auth": 401}[r.URL.Path]
			w.Header()["Www-Authenticate"] = []string{"foo", "bar"}
			w.WriteHeader(status)
			io.WriteString(w, "SEE-THIS")
		})
		site := mount(relay.URL)
		site.body += "\nhandle_errors {\nrespond intercepted\n}"
		p := start(t, site)
		client := p.client(t, protocol)
		for path, status := range map[string]int{"/404": 404, "/500": 500, "/auth": 401} {
			response, body := ask(t, client, request(t, "GET", p.url("/websocket"+path), nil))
			wantStatus(t, response, status)
			wantBody(t, body, "SEE-THIS")
			wantField(t, response.Header, "WWW-Authenticate", "foo, bar")
		}
	})
}

// TestNginxKeepalive (proxy_keepalive.t): the second request takes the connection of the
// first, whatever the response's framing, but not one that the relay has closed.
func TestNginxKeepalive(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	for name, test := range map[string]struct {
		method, wire string
		status       int
	}{
		"length":          {"GET", head + "Content-Length: 8\r\n\r\nSEE-THIS", 200},
		"chunked":         {"GET", head + "Transfer-Encoding: chunked\r\n\r\n8\r\nSEE-THIS\r\n0\r\n\r\n", 200},
		"complex chunked": {"GET", head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("a\r\n0123456789\r\n", 100) + "0\r\n\r\n", 200},
		"0 chunk":         {"GET", head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
		"HEAD":            {"HEAD", head + "Content-Length: 8\r\n\r\n", 200},
		"empty":           {"GET", head + "Content-Length: 0\r\n\r\n", 200},
		"304":             {"GET", "HTTP/1.1 304 Not Modified\r\n\r\n", 304},
		"304 with length": {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304},
		"POST":            {"POST", head + "Content-Length: 0\r\n\r\n", 200},
	} {
		t.Run(name, func(t *testing.T) {
			relay := respondWith(t, test.wire, false)
			p := start(t, mount(https(relay)))
			client := p.client(t, http1)
			for range 2 {
				var body io.Reader
				if test.method == "POST" {
					body = strings.NewReader("0123456789")
				}
				response, _ := ask(t, client, request(t, test.method, p.url("/websocket/trace"), body))
				wantStatus(t, response, test.status)
			}
			if n := relay.Accepted(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		relay := respondWith(t, head+"Connection: close\r\nContent-Length: 0\r\n\r\n", true)
		p := start(t, mount(https(relay)))
		client := p.client(t, http1)
		for range 2 {
			response, _ := ask(t, client, request(t, "POST", p.url("/websocket/trace"), strings.NewReader("0123456789")))
			wantStatus(t, response, http.StatusOK)
		}
		if n := relay.Accepted(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// TestNginxMergeHeaders (proxy_merge_headers.t): the relay's Date and Server are its own.
func TestNginxMergeHeaders(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := respondWith(t, "HTTP/1.1 200 OK\r\nDate: passed\r\nServer: passed\r\nContent-Length: 0\r\n\r\n", false)
		p := start(t, mount(https(relay)))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantField(t, response.Header, "Date", "passed")
		wantField(t, response.Header, "Server", "passed")
	})
}

// TestNginxMethod (proxy_method.t): the relay gets the client's method.
func TestNginxMethod(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL))
		client := p.client(t, protocol)
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"} {
			ask(t, client, request(t, method, p.url("/websocket/trace"), nil))
			if seen := relay.next(t); seen.Method != method {
				t.Errorf("%s became %s", method, seen.Method)
			}
		}
	})
}

// TestNginxNonIdempotent (proxy_non_idempotent.t, proxy_next_upstream.t): nothing is asked
// twice, not even where a kept connection ends under the request.
func TestNginxNonIdempotent(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run(method, func(t *testing.T) {
			requests := make(chan string, 8)
			relay := rawRelay(t, func(c *wstest.Conn) {
				for {
					request, err := c.ReadRequest()
					if err != nil {
						return
					}
					requests <- request.URL.Path
					if request.URL.Path == "/drop" {
						return
					}
					c.WriteResponse("204 No Content", "")
				}
			})
			p := start(t, mount(https(relay)))
			client := p.client(t, http1)
			response, _ := ask(t, client, request(t, "GET", p.url("/websocket/establish"), nil))
			wantStatus(t, response, http.StatusNoContent)
			response, _ = ask(t, client, request(t, method, p.url("/websocket/drop"), nil))
			wantStatus(t, response, http.StatusBadGateway)
			if len(requests) != 2 {
				t.Errorf("the relay was asked %d times, want 2", len(requests))
			}
		})
	}
}

// TestNginxRequestBuffering (proxy_request_buffering.t, …_chunked.t, h2_…): the beginning of
// a body reaches the relay before the rest is sent. Small bodies of a known length may be
// collected first, so that a slow client does not hold a connection to the relay.
func TestNginxRequestBuffering(t *testing.T) {
	for name, test := range map[string]struct {
		length int64
		part   string
	}{
		"chunked": {-1, "01234"},
		"length":  {200_000, strings.Repeat("0123456789", 10_000)},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				begun, whole := make(chan bool), make(chan int, 1)
				relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
					first, _ := io.ReadFull(r.Body, make([]byte, min(len(test.part), 64<<10)))
					close(begun)
					rest, _ := io.Copy(io.Discard, r.Body)
					whole <- first + int(rest)
				})
				p := start(t, mount(relay.URL))
				body, w := io.Pipe()
				defer w.Close()
				r := request(t, "POST", p.url("/websocket/trace"), body)
				r.ContentLength = test.length
				status := make(chan int, 1)
				client := p.client(t, protocol)
				go func() {
					response, err := client.Do(r)
					if err != nil {
						t.Error(err)
						return
					}
					response.Body.Close()
					status <- response.StatusCode
				}()
				io.WriteString(w, test.part)
				await(t, begun, "beginning of the body")
				io.WriteString(w, test.part)
				w.Close()
				if got := await(t, status, "response"); got != http.StatusOK {
					t.Errorf("status %d", got)
				}
				if got := await(t, whole, "whole body"); got != 2*len(test.part) {
					t.Errorf("the relay got %d bytes, want %d", got, 2*len(test.part))
				}
			})
		})
	}
}

// TestNginxRequestBufferingDiscard (proxy_request_buffering.t, …_keepalive.t): a relay that
// does not want the body is heard, and its connection is not used again.
func TestNginxRequestBufferingDiscard(t *testing.T) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				relay := rawRelay(t, func(c *wstest.Conn) {
					c.ReadHead()
					c.WriteResponse("429 Too Many Requests", "later", "Connection: close")
					c.CloseWrite()
					c.ReadToEnd() // or a reset could overtake the response
				})
				p := start(t, mount(https(relay)))
				client := p.client(t, protocol)
				for i := range 5 {
					response, body := ask(t, client, request(t, "POST", p.url("/websocket/trace"), strings.NewReader(strings.Repeat("a", size))))
					wantStatus(t, response, http.StatusTooManyRequests)
					wantBody(t, body, "later")
					if n := relay.Accepted(); n != i+1 {
						t.Errorf("%d connections after %d requests", n, i+1)
					}
				}
			})
		})
	}
}

// TestNginxSSLVerify (proxy_ssl_verify.t): only a certificate of the relay's name, by an
// authority that is trusted, and in time.
func TestNginxSSLVerify(t *testing.T) {
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	for name, test := range map[string]struct {
		leaf *wstest.Leaf
		want int
	}{
		"verify":     {authority.Issue("relay.example"), 200},
		"wildcard":   {authority.Issue("*.example"), 200},
		"other name": {authority.Issue("other.example"), 502},
		"expired":    {authority.IssueWith(expired, "relay.example"), 502},
		"untrusted":  {wstest.NewAuthority("another").Issue("relay.example"), 502},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				relay := wstest.NewRelay(t, test.leaf.ServerConfig("http/1.1"), func(c *wstest.Conn) {
					request, err := c.ReadRequest()
					if err != nil {
						return
					}
					status := "200 OK"
					if request.Header.Get("Upgrade") != "" {
						status = "403 Forbidden"
					}
					c.WriteResponse(status, "", "Connection: close")
				})
				p := start(t, mount(https(relay), transport("tls_server_name relay.example")))
				response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
				wantStatus(t, response, test.want)
				want := test.want
				if want == 200 {
					want = 403 // the relay's own word about the handshake
				}
				wantStatus(t, p.open(t, protocol, target, "").Response, want)
			})
		})
	}
}

// TestNginxSSLName (proxy_ssl_name.t): the name asked for is the upstream's, without its
// port, and none where that is an address.
func TestNginxSSLName(t *testing.T) {
	for _, test := range []struct{ host, want string }{{"localhost", "localhost"}, {"127.0.0.1", ""}} {
		t.Run(test.host, func(t *testing.T) {
			relay, names := sniRelay(t)
			_, port, _ := strings.Cut(relay.Addr, ":")
			p := start(t, mount("https://"+test.host+":"+port))
			ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil))
			p.open(t, http1, target, "")
			for range 2 {
				if got := await(t, names, "TLS handshake"); got != test.want {
					t.Errorf("SNI %q, want %q", got, test.want)
				}
			}
		})
	}
}

// TestNginxTrailers (proxy_trailers.t): announced trailers, after a body with a length and
// after chunks.
func TestNginxTrailers(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := respondWith(t, "HTTP/1.1 200 OK\r\nTrailer: X-Trailer, X-Another\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"8\r\nSEE-THIS\r\n0\r\nX-Trailer: foo\r\nX-Another: bar\r\n\r\n", false)
		p := start(t, mount(https(relay)))
		response, body := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil, "Te: trailers"))
		wantBody(t, body, "SEE-THIS")
		wantField(t, response.Trailer, "X-Trailer", "foo")
		wantField(t, response.Trailer, "X-Another", "bar")
	})
}

// TestNginxUnfinished (proxy_unfinished.t): what is not whole does not look whole.
func TestNginxUnfinished(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
	big := strings.Repeat("X", 1_000_000)
	responses(t, map[string]response{
		"length":      {wire: head + "Content-Length: 100\r\n\r\nunfinished", close: true, status: 200, body: "unfinished", broken: true},
		"length, ok":  {wire: head + "Content-Length: 8\r\n\r\nfinished", close: true, status: 200, body: "finished"},
		"chunked":     {wire: head + "Transfer-Encoding: chunked\r\n\r\nff\r\nunfinished", close: true, status: 200, body: "unfinished", broken: true},
		"chunked, ok": {wire: head + "Transfer-Encoding: chunked\r\n\r\n8\r\nfinished\r\n0\r\n\r\n", close: true, status: 200, body: "finished"},
		"big":         {wire: head + "Content-Length: 1000100\r\n\r\n" + big, close: true, status: 200, body: big, broken: true},
		"big, ok":     {wire: head + "Content-Length: 1000000\r\n\r\n" + big, close: true, status: 200, body: big},
	})
}

// TestNginxUpgrade (proxy_upgrade.t): what is no WebSocket handshake is refused.
func TestNginxUpgrade(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL))
	for name, test := range map[string]struct {
		fields []string
		want   int
	}{
		"another protocol": {[]string{"Upgrade: foo", "Connection: Upgrade"}, 400},
		"no key":           {[]string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"}, 400},
		"another version": {[]string{"Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8",
			"Sec-WebSocket-Key: " + wstest.SampleKey}, 426},
	} {
		t.Run(name, func(t *testing.T) {
			c := p.dial(t)
			c.request("GET", target, test.fields...)
			response := c.response("GET")
			wantStatus(t, response, test.want)
			relay.wantNoRequest(t)
		})
	}
	t.Run("no Upgrade", func(t *testing.T) { // a GET like any other
		response, body := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/"), nil, "Connection: Upgrade"))
		wantStatus(t, response, http.StatusOK)
		wantBody(t, body, "relay")
	})
}

// TestNginxWebSocket (proxy_websocket.t, proxy_upgrade.t, ssl_proxy_upgrade.t): small and
// large messages, in turn and at once, with TLS and without.
func TestNginxWebSocket(t *testing.T) {
	for name, plain := range map[string]bool{"TLS": false, "TCP": true} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				if plain && protocol == http2x {
					return // Caddy has extended CONNECT with TLS only, as browsers do
				}
				relay := rawRelay(t, nil)
				site := mount(https(relay))
				site.plain = plain
				p := start(t, site)
				client, server := connect(t, p, relay, protocol)
				go func() {
					for {
						f, err := server.Next()
						if err != nil {
							return
						}
						server.Send(f)
					}
				}()
				big := strings.Repeat("foo", 16384)
				messages := []string{"foo", big}
				for i := range 10 {
					messages = append(messages, big+fmt.Sprint(i), fmt.Sprint("bazz", i))
				}
				go func() {
					for _, m := range messages {
						client.w.Write(wstest.Encode(true, wstest.Message(m)))
					}
				}()
				for _, want := range messages {
					f, err := client.frames.Next()
					if err != nil {
						t.Fatal(err)
					}
					wantBody(t, string(f.Payload), want)
				}
			})
		})
	}
}

// TestNginxWebSocketPipelined (proxy_websocket.t): a frame that comes with the handshake,
// and one with the 101, before the other side is ready for it.
func TestNginxWebSocketPipelined(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(string(wstest.Encode(false, wstest.Message("hello")))); err != nil {
				return
			}
			for {
				f, err := c.Next()
				if err != nil {
					return
				}
				c.Send(f)
			}
		})
		p := start(t, mount(https(relay)))
		client := p.open(t, protocol, target, string(wstest.Encode(true, wstest.Message("foo"))))
		wantStatus(t, client.Response, opened(protocol))
		for _, want := range []string{"hello", "foo"} {
			f, err := client.frames.Next()
			if err != nil {
				t.Fatal(err)
			}
			wantBody(t, string(f.Payload), want)
		}
		client.send(t, wstest.Message("next"))
		if f, err := client.frames.Next(); err != nil || string(f.Payload) != "next" {
			t.Errorf("%s, %v", f, err)
		}
	})
}

// TestNginxShutdownUpgrade (worker_shutdown_timeout_proxy_upgrade.t): a reload ends the
// tunnels of an upstream that has gone, with a Close frame to both ends, and leaves
// others alone.
func TestNginxShutdownUpgrade(t *testing.T) {
	relay, other := rawRelay(t, nil), rawRelay(t, nil)
	p := start(t, mount(https(relay)))
	client, server := connect(t, p, relay, http1)
	p.reload(t, mount(https(relay), "idle_timeout 5m"))
	client.send(t, wstest.Message("still here"))
	if f, err := server.Next(); err != nil || string(f.Payload) != "still here" {
		t.Fatalf("after a reload with the same upstream: %s, %v", f, err)
	}
	p.reload(t, mount(https(other)))
	for name, frames := range map[string]*wstest.Reader{"client": client.frames, "relay": server.Frames} {
		f, err := frames.Next()
		if err != nil || f.Opcode != wstest.Close || f.Code() != wstest.GoingAway {
			t.Errorf("%s: %s, %v, want a Close frame with 1001", name, f, err)
		}
	}
}

// TestNginxHalfClose (stream_proxy_half_close.t): each direction lives until its own end.
func TestNginxHalfClose(t *testing.T) { checkHalfClose(t) }

// TestNginxXAccelRedirect (proxy_xar.t): the relay does not choose what the operator's
// servers serve. Neither this one nor one in front of it is told.
func TestNginxXAccelRedirect(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			for _, name := range []string{"Redirect", "Expires", "Limit-Rate", "Buffering", "Charset"} {
				w.Header().Set("X-Accel-"+name, "/internal")
			}
			w.Header().Set("X-Sendfile", "/etc/passwd")
			w.Header().Set("Content-Disposition", "attachment")
			io.WriteString(w, "relay")
		})
		p := start(t, mount(relay.URL))
		response, body := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantBody(t, body, "relay")
		wantField(t, response.Header, "Content-Disposition", "attachment")
		for name := range response.Header {
			if strings.HasPrefix(name, "X-Accel-") || name == "X-Sendfile" {
				t.Errorf("the client got %s", name)
			}
		}
	})
}

// TestNginxCookie (proxy_cookie.t): a third party neither gets nor sets cookies on the
// operator's domain, nor does it get the credentials of its users.
func TestNginxCookie(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Set-Cookie", "v=path; domain=example.com; path=/path/")
			w.Header().Add("Set-Cookie", "v=2")
		})
		p := start(t, mount(relay.URL))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil,
			"Cookie: session=1", "Authorization: Basic dXNlcjpwYXNz"))
		wantField(t, response.Header, "Set-Cookie", "")
		seen := relay.next(t).Header
		wantField(t, seen, "Cookie", "")
		wantField(t, seen, "Authorization", "")
	})
}

// TestNginxNotModified (not_modified_proxy.t): conditions are the relay's to judge.
func TestNginxNotModified(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			if r.Header.Get("If-None-Match") == `"1"` {
				w.WriteHeader(http.StatusNotModified)
			}
		})
		p := start(t, mount(relay.URL))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil, `If-None-Match: "1"`))
		wantStatus(t, response, http.StatusNotModified)
		wantField(t, response.Header, "ETag", `"1"`)
	})
}
