package integration_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/pires/go-proxyproto"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// These are the scenarios of Caddy's tests of reverse_proxy, unit and integration.

// accessLog has a site log its requests.
const accessLog = "log {\noutput watchrtc_integration\nformat json\n}\n"

// TestCaddyClientDisconnectRecordsStatus: the access log tells of a client that did not
// wait.
func TestCaddyClientDisconnectRecordsStatus(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		inFlight := make(chan bool)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			close(inFlight)
			<-r.Context().Done()
		})
		site := mount(relay.URL)
		site.body = accessLog + site.body
		p := start(t, site)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-inFlight; cancel() }()
		if _, err := p.client(t, protocol).Do(request(t, "GET", p.url("/websocket/trace"), nil).WithContext(ctx)); err == nil {
			t.Error("there is a response")
		}
		if e := p.logs.await(t, "handled request"); e.Status != 499 {
			t.Errorf("the access log has status %d, want 499", e.Status)
		}
	})
}

// TestCaddyClientCancelAbortLogLevel: a client that leaves in the middle of a response
// is nobody's fault, a relay that does is a warning.
func TestCaddyClientCancelAbortLogLevel(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		t.Run("client", func(t *testing.T) {
			over := make(chan bool)
			relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
				defer close(over)
				for r.Context().Err() == nil {
					io.WriteString(w, strings.Repeat("a", 32<<10))
					flush(w)
				}
			})
			p := start(t, mount(relay.URL))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil).WithContext(ctx))
			expect(t, response.Body, "aaa")
			cancel()
			await(t, over, "end at the relay")
			if warnings := p.logs.warnings(relay.Listener.Addr().String()); len(warnings) > 0 {
				t.Errorf("the log warns: %s", warnings)
			}
		})
		t.Run("relay", func(t *testing.T) {
			relay := respondWith(t, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this", true)
			p := start(t, mount(https(relay)))
			response, err := p.client(t, protocol).Do(request(t, "GET", p.url("/websocket/trace"), nil))
			if err == nil {
				io.ReadAll(response.Body)
				response.Body.Close()
			}
			p.logs.await(t, `"level":"warn"`, "broke off")
		})
	})
}

// hopByHop are fields that concern one connection, and one with which a relay could
// move the operator's origin elsewhere.
var hopByHop = map[string]string{
	"Alt-Svc": `h2="elsewhere.example:443"`, "Keep-Alive": "timeout=999", "Proxy-Authenticate": `Basic realm="x"`,
	"Proxy-Connection": "keep-alive",
}

// TestCaddyStripsHopByHop: they do not reach the client, and others do.
func TestCaddyStripsHopByHop(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			for name, value := range hopByHop {
				w.Header().Set(name, value)
			}
			w.Header().Set("X-Upstream", "kept")
		})
		p := start(t, mount(relay.URL))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantField(t, response.Header, "X-Upstream", "kept")
		for name := range hopByHop {
			wantField(t, response.Header, name, "")
		}
	})
}

func init() { caddy.RegisterModule(namelessWrapper{}) }

// namelessWrapper is a listener wrapper whose connections come from an address that is
// no IP address.
type namelessWrapper struct{}

func (namelessWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.watchrtc_nameless", New: func() caddy.Module { return new(namelessWrapper) }}
}
func (namelessWrapper) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (namelessWrapper) WrapListener(ln net.Listener) net.Listener     { return namelessListener{ln} }

type namelessListener struct{ net.Listener }

func (l namelessListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return namelessConn{conn}, nil
}

type namelessConn struct{ net.Conn }

func (namelessConn) RemoteAddr() net.Addr { return namelessAddr{} }

type namelessAddr struct{}

func (namelessAddr) Network() string { return "weird" }
func (namelessAddr) String() string  { return "my-weird-network:12345" }

// TestCaddyForwardedHeadersNonIP: a peer without an IP address is served, and is not
// trusted.
func TestCaddyForwardedHeadersNonIP(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		site := mount(relay.URL)
		site.server = "listener_wrappers {\nwatchrtc_nameless\ntls\n}"
		p := start(t, site)
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil,
			"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: forged.example", "Host: some-name"))
		wantStatus(t, response, http.StatusOK)
		seen := relay.next(t).Header
		wantField(t, seen, "X-Forwarded-For", "")
		wantField(t, seen, "X-Forwarded-Host", "some-name")
	})
}

// onUnixSocket has a site listen there.
func onUnixSocket(t *testing.T, s site) *proxy {
	t.Helper()
	socket := inScratch("s")
	s.bind, s.plain = "unix/"+socket, true
	p := start(t, s)
	p.network, p.addr = "unix", socket
	return p
}

// get is a request by hand, for where there is no host and port.
func get(t *testing.T, p *proxy, fields ...string) *http.Response {
	t.Helper()
	c := p.dial(t)
	c.request("GET", "/websocket/trace", fields...)
	response := c.response("GET")
	wantStatus(t, response, http.StatusOK)
	return response
}

// TestCaddyForwardedHeadersUnixSocket: whom the server trusts, and what the relay then
// gets. A unix socket has no address to append.
func TestCaddyForwardedHeadersUnixSocket(t *testing.T) {
	all := []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: original.example"}
	for name, test := range map[string]struct {
		server           string
		fields           []string
		chain, proto, as string
	}{
		"trusted":                      {"trusted_proxies_unix", all, "192.0.2.1, 10.0.0.1", "https", "original.example"},
		"untrusted":                    {"trusted_proxies static 10.0.0.0/8", all, "", "http", "proxy.example"},
		"trusted without these fields": {"trusted_proxies_unix", nil, "", "http", "proxy.example"},
		"where nobody says who is":     {"", all, "192.0.2.1, 10.0.0.1", "https", "original.example"},
	} {
		t.Run(name, func(t *testing.T) {
			relay := newRelay(t, nil)
			site := mount(relay.URL)
			site.server = test.server
			get(t, onUnixSocket(t, site), test.fields...)
			seen := relay.next(t).Header
			wantField(t, seen, "X-Forwarded-For", test.chain)
			wantField(t, seen, "X-Forwarded-Proto", test.proto)
			wantField(t, seen, "X-Forwarded-Host", test.as)
		})
	}
}

// TestCaddyInformationalResponses: a 103 has its own fields but none that concern one
// connection or a body, and takes and leaves nothing of the final response's.
func TestCaddyInformationalResponses(t *testing.T) {
	check := func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			fields := []string{"Link: </style.css>; rel=preload", "Connection: X-Internal", "X-Internal: gone", "Content-Length: 3"}
			for name, value := range hopByHop {
				fields = append(fields, name+": "+value)
			}
			c.WriteResponseHead("103 Early Hints", fields...)
			c.WriteResponse("200 OK", "body")
		})
		site := mount(https(relay))
		site.body = "header Strict-Transport-Security max-age=31536000\n" + site.body
		p := start(t, site.over(protocol))
		client := p.client(t, protocol)
		if protocol == http3x {
			p.settleQUIC(t)
			client.Transport = http3Transport(t, nil)
		}
		r, seen := hints(request(t, "GET", p.url("/websocket/trace"), nil))
		response, body := ask(t, client, r)
		wantBody(t, body, "body")
		wantField(t, response.Header, "Strict-Transport-Security", "max-age=31536000")
		wantField(t, response.Header, "Link", "")
		got := seen()
		if len(got) != 1 || got[0].code != http.StatusEarlyHints {
			t.Fatalf("1xx responses %v, want one 103", got)
		}
		wantField(t, got[0].header, "Link", "</style.css>; rel=preload")
		for name := range hopByHop {
			wantField(t, got[0].header, name, "")
		}
		wantField(t, got[0].header, "Connection", "")
		wantField(t, got[0].header, "X-Internal", "")
		wantField(t, got[0].header, "Content-Length", "")
	}
	overHTTP(t, check)
	t.Run(http3x, func(t *testing.T) { check(t, http3x) })
}

// TestCaddyStripsHopByHop101: the same for a 101, where Connection and Upgrade stay.
func TestCaddyStripsHopByHop101(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			request, err := c.ReadRequest()
			if err != nil {
				return
			}
			fields := []string{
				"Upgrade: websocket", "Connection: Upgrade, X-Custom-Id", "X-Custom-Id: gone", "X-Kept: yes",
				"Sec-WebSocket-Accept: " + wstest.Accept(request.Header.Get("Sec-Websocket-Key")),
			}
			for name, value := range hopByHop {
				fields = append(fields, name+": "+value)
			}
			c.WriteResponseHead("101 Switching Protocols", fields...)
			c.ReadToEnd()
		})
		p := start(t, mount(https(relay)))
		client := p.open(t, protocol, target, "")
		wantStatus(t, client.Response, opened(protocol))
		if protocol == http1 {
			wantField(t, client.Header, "Upgrade", "websocket")
			wantField(t, client.Header, "Connection", "Upgrade")
		}
		wantField(t, client.Header, "X-Kept", "yes")
		wantField(t, client.Header, "X-Custom-Id", "")
		for name := range hopByHop {
			wantField(t, client.Header, name, "")
		}
	})
}

// TestCaddy101NoUpgradeRequest: a 101 that nobody asked for is no response.
func TestCaddy101NoUpgradeRequest(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := respondWith(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", false)
		p := start(t, mount(https(relay)))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantStatus(t, response, http.StatusBadGateway)
	})
}

// TestCaddyRequestHeaderOps: the relay's Host is its own name, with TLS or without.
func TestCaddyRequestHeaderOps(t *testing.T) {
	t.Run("TLS", func(t *testing.T) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL))
		ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil, "Host: some-name"))
		if seen := relay.next(t); "https://"+seen.Host != relay.URL {
			t.Errorf("Host %q, want %s", seen.Host, relay.URL)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		hosts := make(chan string, 1)
		relay := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { hosts <- r.Host }))
		t.Cleanup(relay.Close)
		p := start(t, site{body: "watchrtc_proxy /websocket " + relay.URL})
		ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil, "Host: some-name"))
		if host := await(t, hosts, "request"); "http://"+host != relay.URL {
			t.Errorf("Host %q, want %s", host, relay.URL)
		}
	})
}

// TestCaddyProxyProtocol: the relay gets a PROXY header before TLS, with the client's
// address, for HTTP and for WebSockets, over HTTP/1.1 and HTTP/2 to the client, and also
// when the client's address came in such a header.
func TestCaddyProxyProtocol(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		overHTTP(t, func(t *testing.T, protocol string) {
			headers := make(chan string, 4)
			relay := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
				header, err := proxyproto.Read(c.R)
				if err != nil {
					return
				}
				headers <- header.SourceAddr.String()
				secure := wstest.NewConn(tls.Server(wstest.Rest{Conn: c}, leaf.ServerConfig("http/1.1")), false)
				for {
					request, err := secure.ReadRequest()
					if err != nil {
						return
					}
					if request.Header.Get("Upgrade") != "" {
						secure.WriteResponse("403 Forbidden", "")
						continue
					}
					secure.WriteResponse("200 OK", "relay")
				}
			})
			site := mount(https(relay), transport("proxy_protocol "+version))
			site.server = "listener_wrappers {\nproxy_protocol {\nallow 127.0.0.1/32\n}\ntls\n}"
			p := start(t, site)
			t.Run(version, func(t *testing.T) {
				_, body := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
				wantBody(t, body, "relay")
				if got := await(t, headers, "PROXY header"); !strings.HasPrefix(got, "127.0.0.1:") {
					t.Errorf("the PROXY header names %s", got)
				}
				wantStatus(t, p.open(t, protocol, target, "").Response, http.StatusForbidden)
				await(t, headers, "PROXY header of the WebSocket")
			})
			if protocol != http1 {
				return
			}
			t.Run(version+" on both sides", func(t *testing.T) {
				c := p.dial(t, "PROXY TCP4 192.0.2.9 127.0.0.1 40000 443\r\n")
				c.request("GET", "/websocket/trace")
				response := c.response("GET")
				wantStatus(t, response, http.StatusOK)
				if got := await(t, headers, "PROXY header"); got != "192.0.2.9:40000" {
					t.Errorf("the PROXY header names %s, want the client", got)
				}
			})
		})
	}
}

// forwardProxy is an HTTP proxy that connects whoever asks, and counts.
func forwardProxy(t *testing.T, tunnels chan<- string) *wstest.Relay {
	return forwardProxyOver(t, nil, tunnels)
}

func forwardProxyOver(t *testing.T, config *tls.Config, tunnels chan<- string) *wstest.Relay {
	return wstest.NewRelay(t, config, func(c *wstest.Conn) {
		request, err := http.ReadRequest(c.R)
		if err != nil || request.Method != http.MethodConnect {
			c.WriteResponse("405 Method Not Allowed", "")
			return
		}
		tunnels <- request.RequestURI
		to, err := net.Dial("tcp", request.RequestURI)
		if err != nil {
			c.WriteResponse("502 Bad Gateway", "")
			return
		}
		connectTo(c, to)
	})
}

// TestCaddyForwardProxy: what goes through a forward proxy, goes through it.
func TestCaddyForwardProxy(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			for {
				request, err := c.ReadRequest()
				if err != nil {
					return
				}
				if request.Header.Get("Upgrade") != "" {
					c.WriteResponse("403 Forbidden", "")
				} else {
					c.WriteResponse("200 OK", "relay")
				}
			}
		})
		tunnels := make(chan string, 4)
		forward := forwardProxy(t, tunnels)
		p := start(t, mount(https(relay), transport("network_proxy url http://"+forward.Addr)))
		_, body := ask(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), strings.NewReader("{}")))
		wantBody(t, body, "relay")
		wantStatus(t, p.open(t, protocol, target, "").Response, http.StatusForbidden)
		for range 2 {
			if got := await(t, tunnels, "CONNECT"); got != relay.Addr {
				t.Errorf("the forward proxy was asked for %s, want %s", got, relay.Addr)
			}
		}
	})
}

// TestCaddyForwardProxyDialError: a forward proxy that cannot be reached.
func TestCaddyForwardProxyDialError(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run(method, func(t *testing.T) {
			p := start(t, mount("https://relay.example", transport("network_proxy url http://"+wstest.DeadAddr(t))))
			response, _ := ask(t, p.client(t, http1), request(t, method, p.url("/websocket/trace"), strings.NewReader("payload")))
			wantStatus(t, response, http.StatusBadGateway)
		})
	}
}

// TestCaddyRejectsUnknownCurve: what the transport does not know is refused at load.
func TestCaddyRejectsUnknownCurve(t *testing.T) {
	newLogs()
	err := load(mount("https://relay.example", transport("tls_curves X25519_unknown")), freePort(t))
	if err == nil || !strings.Contains(err.Error(), "X25519_unknown") {
		t.Errorf("%v, want an error that names the curve", err)
	}
}

// TestCaddyIncremental: RFC 10036's field is passed on, and nothing is held back.
func TestCaddyIncremental(t *testing.T) {
	for name, test := range map[string]struct {
		method string
		body   io.Reader
		length int64
	}{
		"length unknown":             {"POST", io.NopCloser(strings.NewReader("hello")), -1},
		"length known":               {"POST", strings.NewReader("hello"), 5},
		"no body":                    {"GET", nil, 0},
		"length unknown and no body": {"POST", io.NopCloser(strings.NewReader("")), -1},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Incremental", "?1")
					w.Header().Set("Proxy-Status", "relay.example;error=none")
				})
				p := start(t, mount(relay.URL))
				sent := ""
				body := test.body
				if body != nil && test.length != 0 {
					sent = map[bool]string{true: "", false: "hello"}[strings.HasSuffix(name, "no body")]
					body = strings.NewReader(sent)
					if test.length < 0 {
						body = io.NopCloser(body)
					}
				}
				response, _ := ask(t, p.client(t, protocol), request(t, test.method, p.url("/websocket/trace"), body, "Incremental: ?1"))
				wantStatus(t, response, http.StatusOK)
				wantField(t, response.Header, "Incremental", "?1")
				wantField(t, response.Header, "Proxy-Status", "relay.example;error=none")
				seen := relay.next(t)
				wantField(t, seen.Header, "Incremental", "?1")
				wantBody(t, seen.body, sent)
				if sent != "" && seen.ContentLength != test.length {
					t.Errorf("Content-Length %d, want %d", seen.ContentLength, test.length)
				}
			})
		})
	}
}

// TestCaddyHeadResponseAdvertisesLength: there is no body to wait for.
func TestCaddyHeadResponseAdvertisesLength(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := respondWith(t, "HTTP/1.1 200 OK\r\nIncremental: ?1\r\nContent-Length: 42\r\n\r\n", false)
		p := start(t, mount(https(relay)))
		response, body := ask(t, p.client(t, protocol), request(t, "HEAD", p.url("/websocket/trace"), nil))
		wantStatus(t, response, http.StatusOK)
		wantField(t, response.Header, "Content-Length", "42")
		wantBody(t, body, "")
	})
}

// undeclared sends trailers by hand, of which declare are announced.
func undeclared(t *testing.T, p *proxy, declare string) *http.Response {
	t.Helper()
	c := p.dial(t)
	fields := []string{"Transfer-Encoding: chunked", "Trailer: " + declare}
	c.request("PUT", "/websocket/trace", fields...)
	c.write("5\r\nhello\r\n0\r\nContent-Digest: first\r\nContent-Digest: second\r\nX-Checksum: sum\r\n\r\n")
	response := c.response("PUT")
	wantStatus(t, response, http.StatusOK)
	return response
}

// TestCaddyRequestTrailers: those announced and those not, with several values and
// with none, after a body and after none. Where none is announced over HTTP/1.1,
// net/http hands them to the server's own request only, which no handler can reach.
func TestCaddyRequestTrailers(t *testing.T) {
	newTrailerRelay := func(t *testing.T) (string, <-chan http.Header) {
		trailers := make(chan http.Header, 8)
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			trailers <- r.Trailer.Clone()
		}).URL, trailers
	}
	check := func(t *testing.T, got http.Header) {
		t.Helper()
		wantField(t, got, "Content-Digest", "first, second")
		wantField(t, got, "X-Checksum", "sum")
		if got.Get("X-Absent") != "" {
			t.Errorf("X-Absent is %q", got.Get("X-Absent"))
		}
	}
	for _, declare := range []string{"Content-Digest, X-Checksum", "Content-Digest"} {
		t.Run("announced "+declare, func(t *testing.T) {
			url, trailers := newTrailerRelay(t)
			undeclared(t, start(t, mount(url)), declare)
			check(t, await(t, trailers, "request"))
		})
	}
	for _, body := range []string{"", "hello, trailers"} {
		t.Run("body "+body, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				url, trailers := newTrailerRelay(t)
				p := start(t, mount(url))
				r := request(t, "PUT", p.url("/websocket/trace"), io.NopCloser(strings.NewReader(body)))
				r.ContentLength = -1
				r.Trailer = http.Header{"Content-Digest": {"first", "second"}, "X-Checksum": {"sum"}, "X-Absent": nil}
				response, _ := ask(t, p.client(t, protocol), r)
				wantStatus(t, response, http.StatusOK)
				check(t, await(t, trailers, "request"))
			})
		})
	}
}

// brokenUpload has a client stop in the middle of its body, and returns the trailers that the
// relay got, and its error.
func brokenUpload(t *testing.T, protocol string) (http.Header, error) {
	type upload struct {
		err     error
		trailer http.Header
	}
	begun, uploads := make(chan bool), make(chan upload, 1)
	relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.ReadFull(r.Body, make([]byte, 1))
		close(begun)
		_, err := io.Copy(io.Discard, r.Body)
		uploads <- upload{err, r.Trailer}
	})
	p := start(t, mount(relay.URL))
	body, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := request(t, "PUT", p.url("/websocket/trace"), body).WithContext(ctx)
	r.Trailer = http.Header{"Content-Digest": {"must not come"}}
	done := make(chan error, 1)
	client := p.client(t, protocol)
	go func() {
		response, err := client.Do(r)
		if err == nil {
			response.Body.Close()
			if response.StatusCode == 499 { // it came between the client's farewell and its close
				err = context.Canceled
			}
		}
		done <- err
	}()
	io.WriteString(w, "x")
	await(t, begun, "upload")
	cancel()
	w.CloseWithError(context.Canceled)
	if err := await(t, done, "end of the request"); !errors.Is(err, context.Canceled) {
		t.Errorf("the client's error is %v", err)
	}
	got := await(t, uploads, "end of the upload")
	return got.trailer, got.err
}

// TestCaddyRequestTrailersReadError: a broken upload is broken for the
// relay too, and has no trailers.
func TestCaddyRequestTrailersReadError(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		trailer, err := brokenUpload(t, protocol)
		if err == nil {
			t.Error("the relay took the broken upload for a whole one")
		}
		wantField(t, trailer, "Content-Digest", "")
	})
}

// TestCaddyRequestTrailersStreaming: the second half of the body goes when the relay has
// the first, and trailers come last.
func TestCaddyRequestTrailersStreaming(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		first, trailers := make(chan bool), make(chan http.Header, 1)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.ReadFull(r.Body, make([]byte, 5))
			close(first)
			rest, _ := io.ReadAll(r.Body)
			if string(rest) != ", streamed" {
				t.Errorf("the rest is %q", rest)
			}
			trailers <- r.Trailer
		})
		p := start(t, mount(relay.URL))
		body, w := io.Pipe()
		go func() {
			io.WriteString(w, "hello")
			select {
			case <-first:
				io.WriteString(w, ", streamed")
				w.Close()
			case <-t.Context().Done():
				w.CloseWithError(t.Context().Err())
			}
		}()
		r := request(t, "PUT", p.url("/websocket/trace"), body)
		r.Trailer = http.Header{"Content-Digest": {"digest"}}
		response, _ := ask(t, p.client(t, protocol), r)
		wantStatus(t, response, http.StatusOK)
		wantField(t, await(t, trailers, "trailers"), "Content-Digest", "digest")
	})
}

// TestCaddyRequestTrailersEarlyResponse: a refusal comes while the upload goes on.
func TestCaddyRequestTrailersEarlyResponse(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			c.ReadHead()
			c.ReadExactly(1)
			c.WriteResponse("403 Forbidden", "no", "Connection: close")
			c.ReadToEnd()
		})
		p := start(t, mount(https(relay)))
		if protocol == http2x {
			body, w := io.Pipe()
			defer w.Close()
			go io.WriteString(w, "x")
			r := request(t, "PUT", p.url("/websocket/trace"), body)
			r.Trailer = http.Header{"Content-Digest": nil}
			wantStatus(t, do(t, p.client(t, protocol), r), http.StatusForbidden)
			return
		}
		c := p.dial(t)
		c.SetDeadline(time.Now().Add(patience))
		c.request("PUT", "/websocket/trace", "Transfer-Encoding: chunked", "Trailer: Content-Digest")
		c.write("1\r\nx\r\n")
		response := c.response("PUT")
		wantStatus(t, response, http.StatusForbidden)
	})
}

// TestCaddyNeverRetried: whatever a relay says or does, it is asked once.
func TestCaddyNeverRetried(t *testing.T) {
	for name, response := range map[string]string{
		"502":             "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
		"503":             "HTTP/1.1 503 Service Unavailable\r\nX-Upstream-Retry: true\r\nContent-Length: 0\r\n\r\n",
		"no response":     "",
		"half a response": "HTTP/1.1 200 OK\r\nContent-",
	} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(method+" "+name, func(t *testing.T) {
				requests := make(chan bool, 8)
				relay := rawRelay(t, func(c *wstest.Conn) {
					if _, err := c.ReadRequest(); err == nil {
						requests <- true
						c.WriteText(response)
					}
				})
				p := start(t, mount(https(relay)))
				got, _ := ask(t, p.client(t, http1), request(t, method, p.url("/websocket/trace"), strings.NewReader("hello, retry")))
				want := http.StatusBadGateway
				if name == "503" {
					want = http.StatusServiceUnavailable
				}
				wantStatus(t, got, want)
				if len(requests) != 1 {
					t.Errorf("the relay was asked %d times", len(requests))
				}
			})
		}
	}
}

// TestCaddyDialError: nobody listens.
func TestCaddyDialError(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		p := start(t, mount("https://"+wstest.DeadAddr(t)))
		for _, method := range []string{"GET", "POST"} {
			response, _ := ask(t, p.client(t, protocol), request(t, method, p.url("/websocket/trace"), strings.NewReader("hello, retry")))
			wantStatus(t, response, http.StatusBadGateway)
		}
		wantStatus(t, p.open(t, protocol, target, "").Response, http.StatusBadGateway)
	})
}

// TestCaddySubrouteErrorFallbackWithBody: when no relay could be reached, another
// handler gets the whole body.
func TestCaddySubrouteErrorFallbackWithBody(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		bodies := make(chan string, 1)
		fallback := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			bodies <- string(body)
			io.WriteString(w, "fallback")
		}))
		t.Cleanup(fallback.Close)
		site := mount("https://" + wstest.DeadAddr(t))
		site.body += "\nhandle_errors {\nreverse_proxy " + fallback.URL + "\n}"
		p := start(t, site)
		_, body := ask(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), strings.NewReader("hello world")))
		wantBody(t, body, "fallback")
		wantBody(t, await(t, bodies, "request to the fallback"), "hello world")
	})
}

// TestCaddyCopyResponse: bodies of no byte, of one buffer, and of several and a bit.
func TestCaddyCopyResponse(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		for _, want := range []string{"", strings.Repeat("a", 32<<10), strings.Repeat("123456789 123456789 123456789 12", 3000)} {
			relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, want) })
			p := start(t, mount(relay.URL))
			_, body := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
			wantBody(t, body, want)
			p.stop(t)
		}
	})
}

// TestCaddyErrorIsNotHalfClose: a reset is no orderly end, in either direction.
func TestCaddyErrorIsNotHalfClose(t *testing.T) {
	relay := rawRelay(t, nil)
	p := start(t, mount(https(relay)))
	t.Run("relay", func(t *testing.T) {
		client, server := connect(t, p, relay, http1)
		server.Reset()
		if _, err := io.ReadAll(client.r); !wstest.IsReset(err) {
			t.Errorf("%v, want a reset", err)
		}
	})
	t.Run("client", func(t *testing.T) {
		client, server := connect(t, p, relay, http1)
		client.reset()
		if _, err := server.ReadToEnd(); !wstest.IsReset(err) {
			t.Errorf("%v, want a reset", err)
		}
	})
}

// TestCaddyUpgradedStreamHalfClose: each direction lives until its own end.
func TestCaddyUpgradedStreamHalfClose(t *testing.T) { checkHalfClose(t) }

// TestCaddyFlushIntervalIncremental: nothing is held back where either side says so.
func TestCaddyFlushIntervalIncremental(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		header := func(h http.Header) {
			h.Set("Content-Type", "application/json")
			h.Set("Incremental", "?1")
			h.Set("Content-Length", "6")
		}
		handler, steps := stepping(header, "one", "two")
		// What the operator takes away afterwards makes no difference.
		p := start(t, mount(serve(t, handler).URL, "header_down -Incremental"))
		checkSteps(t, p, protocol, header, steps, "one", "two")
	})
}

// TestCaddyUpgradeMismatch: a 101 to something else than was asked for is refused, and
// the relay's connection is closed.
func TestCaddyUpgradeMismatch(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		over := make(chan bool)
		relay := rawRelay(t, func(c *wstest.Conn) {
			defer close(over)
			c.ReadHead()
			c.WriteResponseHead("101 Switching Protocols", "Upgrade: something-else", "Connection: Upgrade")
			c.ReadToEnd()
		})
		p := start(t, mount(https(relay)))
		wantStatus(t, p.open(t, protocol, target, "").Response, http.StatusBadGateway)
		await(t, over, "end of the relay's connection")
	})
}

// TestCaddyUpgradeClientGone: a client that has gone when the 101 comes leaves no
// connection to the relay afterwards.
func TestCaddyUpgradeClientGone(t *testing.T) {
	asked, gone, over := make(chan bool), make(chan bool), make(chan bool)
	relay := rawRelay(t, func(c *wstest.Conn) {
		defer close(over)
		head, _ := c.ReadHead()
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
		if err != nil {
			t.Error(err)
			return
		}
		close(asked)
		<-gone
		c.WriteResponseHead("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
			"Sec-WebSocket-Accept: "+wstest.Accept(request.Header.Get("Sec-Websocket-Key")))
		c.ReadToEnd()
	})
	p := start(t, mount(https(relay)))
	c := p.dial(t)
	c.request("GET", target, wstest.HandshakeFields(wstest.NewKey())...)
	await(t, asked, "handshake")
	c.Reset()
	close(gone)
	await(t, over, "end of the relay's connection")
}

// TestCaddyPlaceholderDialAddress: an upstream from the environment. One that only a
// request could tell is refused, and so is a unix socket.
func TestCaddyPlaceholderDialAddress(t *testing.T) {
	relay := newRelay(t, nil)
	t.Setenv("INTEGRATION_RELAY", relay.URL)
	t.Run("environment", func(t *testing.T) {
		p := start(t, mount("{env.INTEGRATION_RELAY}"))
		_, body := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil))
		wantBody(t, body, "relay")
	})
	for _, upstream := range []string{"https://{http.request.header.X-Dial}", "unix//tmp/relay.sock"} {
		t.Run(upstream, func(t *testing.T) {
			newLogs()
			if err := load(mount(upstream), freePort(t)); err == nil || !strings.Contains(err.Error(), "upstream") {
				t.Errorf("%v, want an error that names the upstream", err)
			}
		})
	}
}

// TestCaddySNI: the transport's tls_server_name is what the relay is asked for.
func TestCaddySNI(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay, names := sniRelay(t)
		p := start(t, mount(https(relay), transport("tls_server_name relay.example")))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantStatus(t, response, http.StatusForbidden)
		wantStatus(t, p.open(t, protocol, target, "").Response, http.StatusForbidden)
		for range 2 {
			if name := await(t, names, "TLS handshake"); name != "relay.example" {
				t.Errorf("SNI %q", name)
			}
		}
	})
}

// TestCaddyNormalizeWebSocketHeaders: the relay reads the fields as RFC 6455 writes
// them, however the client did.
func TestCaddyNormalizeWebSocketHeaders(t *testing.T) {
	heads := make(chan string, 1)
	relay := rawRelay(t, func(c *wstest.Conn) {
		head, _ := c.ReadHead()
		heads <- head
		c.WriteResponse("403 Forbidden", "")
	})
	p := start(t, mount(https(relay), "header_up X-Add-Header 1"))
	for _, spelling := range []string{"Sec-WebSocket-", "Sec-Websocket-", "sec-websocket-"} {
		c := p.dial(t)
		err := c.WriteRequest("GET", target, "Connection: Upgrade", "Upgrade: websocket", spelling+"Version: 13",
			spelling+"Key: "+wstest.SampleKey, spelling+"Protocol: 2.0", "Sec-Websocket-Unnormalizedkey: 13")
		if err != nil {
			t.Fatal(err)
		}
		head := await(t, heads, "handshake")
		for _, line := range []string{
			"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + wstest.SampleKey, "Sec-WebSocket-Protocol: 2.0",
			"Sec-Websocket-Unnormalizedkey: 13", "X-Add-Header: 1",
		} {
			if !strings.Contains(head, "\r\n"+line+"\r\n") {
				t.Errorf("%s: no %s in\n%s", spelling, line, head)
			}
		}
	}
}

// TestCaddyResponseHandling: however far a response gets, that far it gets.
func TestCaddyResponseHandling(t *testing.T) {
	const head = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 500\r\n\r\n"
	full := strings.Repeat("full", 125)
	for name, test := range map[string]struct {
		wire   string
		status int
		body   string
		whole  bool
	}{
		"head only":   {head, 500, "", false},
		"half a body": {head + "partial", 500, "partial", false},
		"whole body":  {head + full, 500, full, true},
		"nothing":     {"", 502, "", true},
		"half a head": {head[:30], 502, "", true},
		"not a head":  {"what is this\r\n\r\n", 502, "", true},
		"status 000":  {"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n", 502, "", true},
		"status 99":   {"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n", 502, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				relay := respondWith(t, test.wire, true)
				p := start(t, mount(https(relay)))
				response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
				wantStatus(t, response, test.status)
				body, err := io.ReadAll(response.Body)
				if (err == nil) != test.whole {
					t.Errorf("the body's end: %v, want an error: %t", err, !test.whole)
				}
				wantBody(t, string(body), test.body)
			})
		})
	}
}

// TestCaddyMaxSize: a body that request_body or max_body_size cuts short is refused, and
// no relay takes it for a whole one.
func TestCaddyMaxSize(t *testing.T) {
	for name, site := range map[string]func(string) site{
		"request_body": func(url string) site {
			s := mount(url)
			s.body = "request_body {\nmax_size 10\n}\n" + s.body
			return s
		},
		"max_body_size": func(url string) site { return mount(url, "max_body_size 10") },
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				relay := newRelay(t, nil) // notes whole bodies only
				p := start(t, site(relay.URL))
				client := p.client(t, protocol)
				for _, length := range []int64{13, -1} {
					r := request(t, "POST", p.url("/websocket/trace"), strings.NewReader("abcdefghijklm"))
					r.ContentLength = length
					response, _ := ask(t, client, r)
					wantStatus(t, response, http.StatusRequestEntityTooLarge)
				}
				relay.wantNoRequest(t)
			})
		})
	}
}

// TestCaddyReadBodyTimeout: an upload that stands still ends when the server says so, with
// an error for the client and none that the relay could take for the end.
func TestCaddyReadBodyTimeout(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		uploads := make(chan error, 1)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			uploads <- err
		})
		site := mount(relay.URL)
		site.server = "timeouts {\nread_body 300ms\n}"
		p := start(t, site)
		body, w := io.Pipe()
		defer w.Close()
		go w.Write(make([]byte, 1024))
		r := request(t, "POST", p.url("/websocket/trace"), body)
		r.ContentLength = 100 << 10
		response, err := p.client(t, protocol).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode < 400 {
			t.Errorf("status %d", response.StatusCode)
		}
		if err := await(t, uploads, "end of the upload"); err == nil {
			t.Error("the relay took the upload for a whole one")
		}
	})
}

// TestCaddyFullDuplex: each piece comes back before the next one is sent, over HTTP/2 to
// the client and to the relay.
func TestCaddyFullDuplex(t *testing.T) {
	for name, options := range map[string][]func(*httptest.Server){"HTTP1 relay": nil, "HTTP2 relay": {withHTTP2}} {
		t.Run(name, func(t *testing.T) {
			relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
				http.NewResponseController(w).EnableFullDuplex()
				w.WriteHeader(http.StatusOK)
				flush(w)
				p := make([]byte, 5)
				for {
					if _, err := io.ReadFull(r.Body, p); err != nil {
						return
					}
					w.Write(p)
					flush(w)
				}
			}, options...)
			p := start(t, mount(relay.URL))
			body, w := io.Pipe()
			defer w.Close()
			response := do(t, p.client(t, http2x), request(t, "PUT", p.url("/websocket/trace"), body))
			for i := range 3 {
				piece := fmt.Sprintf("part%d", i)
				io.WriteString(w, piece)
				expect(t, response.Body, piece)
			}
			w.Close()
			expectEnd(t, response.Body)
		})
	}
}

// TestCaddyH2ToH1ChunkedResponse: encode compresses what a relay sends in chunks.
func TestCaddyH2ToH1ChunkedResponse(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		want := strings.Repeat("compress me ", 200)
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			flush(w)
			io.WriteString(w, want)
		})
		site := mount(relay.URL)
		site.body = "route {\nencode gzip\n" + site.body + "\n}"
		p := start(t, site)
		response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil, "Accept-Encoding: gzip"))
		wantField(t, response.Header, "Content-Encoding", "gzip")
		zip, err := gzip.NewReader(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(zip)
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, string(body), want)
	})
}
