package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// These are the scenarios of net/http/httputil's tests of ReverseProxy.

// TestGoReverseProxy is one request with all that a reverse proxy has to deal with.
func TestGoReverseProxy(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailers", "not a special field name")
			w.Header().Set("Trailer", "X-Trailer")
			w.Header().Set("X-Foo", "bar")
			w.Header().Set("Upgrade", "foo")
			w.Header().Set("Keep-Alive", "timeout=9")
			w.Header().Add("X-Multi-Value", "foo")
			w.Header().Add("X-Multi-Value", "bar")
			http.SetCookie(w, &http.Cookie{Name: "flavor", Value: "chocolateChip"})
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, "I am the relay")
			w.Header().Set("X-Trailer", "announced")
			w.Header().Set(http.TrailerPrefix+"X-Unannounced", "unannounced")
		})
		p := start(t, mount(relay.URL))
		fields := []string{"Host: some-name", "X-Forwarded-For: 192.0.2.1", "Te: trailers"}
		if protocol == http1 {
			fields = append(fields, "Connection: close, TE", "Te: foo", "Proxy-Connection: gone", "Upgrade: foo")
		}
		response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil, fields...))
		wantStatus(t, response, http.StatusNotFound)
		for name, want := range map[string]string{
			"Trailers": "not a special field name", "X-Foo": "bar", "X-Multi-Value": "foo, bar",
			"Upgrade": "", "Keep-Alive": "",
			"Set-Cookie": "", // a third party sets no cookies on the operator's domain
		} {
			wantField(t, response.Header, name, want)
		}
		if _, announced := response.Trailer["X-Trailer"]; !announced {
			t.Errorf("before the body the trailers are %v, want X-Trailer announced", response.Trailer)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, string(body), "I am the relay")
		wantField(t, response.Trailer, "X-Trailer", "announced")
		wantField(t, response.Trailer, "X-Unannounced", "unannounced")

		seen := relay.next(t)
		for name, want := range map[string]string{
			"X-Forwarded-For": "192.0.2.1, 127.0.0.1", "X-Forwarded-Host": "some-name", "Te": "trailers",
			"Connection": "", "Upgrade": "", "Proxy-Connection": "",
		} {
			wantField(t, seen.Header, name, want)
		}
		if len(seen.TransferEncoding) > 0 {
			t.Errorf("the relay got Transfer-Encoding %v", seen.TransferEncoding)
		}
		// The relay knows itself by its own name only.
		if want := strings.TrimPrefix(relay.URL, "https://"); seen.Host != want {
			t.Errorf("the relay got Host %q, want %q", seen.Host, want)
		}
	})
}

// TestGoHangUp has a relay that closes the connection instead of a response.
func TestGoHangUp(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) { c.ReadRequest() })
		p := start(t, mount(https(relay)))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantStatus(t, response, http.StatusBadGateway)
	})
}

// TestGoStripHeadersPresentInConnection: what Connection names concerns one connection.
func TestGoStripHeadersPresentInConnection(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Connection", "Upgrade, X-Token")
		w.Header().Add("Connection", "X-Some")
		w.Header().Set("X-Token", "gone")
		w.Header().Set("X-Some", "gone")
	})
	p := start(t, mount(relay.URL))
	response, _ := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil,
		"Connection: Upgrade, X-Token", "Connection: X-Some", "X-Token: gone", "X-Some: gone"))
	wantStatus(t, response, http.StatusOK)
	for _, header := range []http.Header{response.Header, relay.next(t).Header} {
		for _, name := range []string{"Connection", "X-Token", "X-Some"} {
			wantField(t, header, name, "")
		}
	}
}

// TestGoStripEmptyConnection: an empty Connection goes too, and the one after it counts.
func TestGoStripEmptyConnection(t *testing.T) {
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Connection", "")
		w.Header().Add("Connection", "X-Some")
		w.Header().Set("X-Some", "gone")
	})
	p := start(t, mount(relay.URL))
	response, _ := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil,
		"Connection:", "Connection: X-Some", "X-Some: gone"))
	for _, header := range []http.Header{response.Header, relay.next(t).Header} {
		wantField(t, header, "Connection", "")
		wantField(t, header, "X-Some", "")
	}
}

// TestGoXForwardedFor: the chain is continued.
func TestGoXForwardedFor(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL))
		ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil,
			"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"))
		wantField(t, relay.next(t).Header, "X-Forwarded-For", "192.0.2.1, 192.0.2.2, 127.0.0.1")
	})
}

// TestGoXForwardedForOmit: the operator can have none sent.
func TestGoXForwardedForOmit(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, "header_up -X-Forwarded-For"))
	ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace"), nil, "X-Forwarded-For: 192.0.2.1"))
	wantField(t, relay.next(t).Header, "X-Forwarded-For", "")
}

// TestGoRewriteStripsForwarded: what a stranger says about itself does not reach the
// relay.
func TestGoRewriteStripsForwarded(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL, "trusted_proxies 192.0.2.0/24"))
		ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil, "Host: some-name",
			"Forwarded: for=198.51.100.1", "X-Forwarded-For: 198.51.100.1",
			"X-Forwarded-Proto: gopher", "X-Forwarded-Host: forged.example"))
		seen := relay.next(t).Header
		for name, want := range map[string]string{
			"Forwarded": "", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "some-name",
		} {
			wantField(t, seen, name, want)
		}
	})
}

// TestGoQuery: an upstream with a query of its own is refused, as requests bring theirs.
func TestGoQuery(t *testing.T) {
	err := load(mount("https://relay.example/?sta=tic"), freePort(t))
	if err == nil || !strings.Contains(err.Error(), "sta=tic") {
		t.Errorf("an upstream with a query: %v, want an error that names it", err)
	}
}

// stepping is a relay that sends each piece of its body when the test says so.
func stepping(header func(http.Header), pieces ...string) (handler http.HandlerFunc, step chan<- bool) {
	steps := make(chan bool)
	return func(w http.ResponseWriter, r *http.Request) {
		header(w.Header())
		w.WriteHeader(http.StatusOK)
		flush(w)
		for _, piece := range pieces {
			select {
			case <-steps:
			case <-r.Context().Done():
				return
			}
			io.WriteString(w, piece)
			flush(w)
		}
	}, steps
}

// checkSteps has a client get each piece before the relay may send the next one.
func checkSteps(t *testing.T, p *proxy, protocol string, header func(http.Header), relaySteps chan<- bool, pieces ...string) {
	t.Helper()
	response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
	wantStatus(t, response, http.StatusOK)
	for _, piece := range pieces {
		relaySteps <- true
		expect(t, response.Body, piece)
	}
	expectEnd(t, response.Body)
}

// TestGoFlushInterval: a body without a length is passed on as it comes.
func TestGoFlushInterval(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		handler, steps := stepping(func(http.Header) {}, "one", "two", "three")
		p := start(t, mount(serve(t, handler).URL))
		checkSteps(t, p, protocol, nil, steps, "one", "two", "three")
	})
}

// TestGoResponseControllerFlushInterval: also when other handlers wrap the response.
func TestGoResponseControllerFlushInterval(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		handler, steps := stepping(func(http.Header) {}, "one", "two")
		site := mount(serve(t, handler).URL)
		site.body = "route {\nheader >X-Added yes\n" + site.body + "\n}"
		p := start(t, site)
		checkSteps(t, p, protocol, nil, steps, "one", "two")
	})
}

// TestGoFlushIntervalHeaders: the head does not wait for the body.
func TestGoFlushIntervalHeaders(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		release := make(chan bool)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("MyHeader", "hi")
			w.WriteHeader(http.StatusOK)
			flush(w)
			<-release
		})
		defer close(release)
		p := start(t, mount(relay.URL))
		response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantField(t, response.Header, "MyHeader", "hi")
	})
}

// TestGoCancellation: when the client has gone, the relay is told.
func TestGoCancellation(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		inFlight, over := make(chan bool), make(chan bool)
		relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
			close(inFlight)
			<-r.Context().Done()
			close(over)
		})
		p := start(t, mount(relay.URL))
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-inFlight; cancel() }()
		_, err := p.client(t, protocol).Do(request(t, "GET", p.url("/websocket/trace"), nil).WithContext(ctx))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the request to be canceled", err)
		}
		await(t, over, "end of the request at the relay")
	})
}

// TestGoNilBody: HTTP/1.0 without a body.
func TestGoNilBody(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL))
	c := p.dial(t)
	c.write("GET /websocket/trace HTTP/1.0\r\n\r\n")
	response := c.response("GET")
	wantStatus(t, response, http.StatusOK)
	expect(t, response.Body, "relay")
}

// TestGoUserAgentHeader: the client's is passed on, and none is made up.
func TestGoUserAgentHeader(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL))
		client := p.client(t, protocol)
		for _, sent := range []string{"explicit UA", ""} {
			ask(t, client, request(t, "GET", p.url("/websocket/trace"), nil, "User-Agent: "+sent))
			wantField(t, relay.next(t).Header, "User-Agent", sent)
		}
	})
}

// TestGoPost: a body with a length keeps it.
func TestGoPost(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		for _, size := range []int{1, 100, 200_000} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				relay := newRelay(t, nil)
				p := start(t, mount(relay.URL))
				sent := strings.Repeat("a", size)
				ask(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), strings.NewReader(sent)))
				seen := relay.next(t)
				wantBody(t, seen.body, sent)
				if seen.ContentLength != int64(size) {
					t.Errorf("Content-Length %d, want %d", seen.ContentLength, size)
				}
			})
		}
	})
}

// TestGoNilBodyIsNoBody: a request without a body reaches the relay as one.
func TestGoNilBodyIsNoBody(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL))
		ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		if seen := relay.next(t); seen.ContentLength != 0 || len(seen.TransferEncoding) > 0 {
			t.Errorf("Content-Length %d and Transfer-Encoding %v, want neither", seen.ContentLength, seen.TransferEncoding)
		}
	})
}

// TestGoModifyResponse: header_down has the last word about the response's fields.
func TestGoModifyResponse(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Hit-Mod", "true") })
		p := start(t, mount(relay.URL, "header_down X-Hit-Mod modified", "header_down +X-Added {http.watchrtc_proxy.header.X-Hit-Mod}"))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantField(t, response.Header, "X-Hit-Mod", "modified")
		wantField(t, response.Header, "X-Added", "true")
	})
}

// TestGoErrorHandler: handle_errors makes the response when there is none.
func TestGoErrorHandler(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		site := mount("https://" + wstest.DeadAddr(t))
		site.body += "\nhandle_errors {\nheader X-Handled yes\nrespond \"{err.status_code}\" 418\n}"
		p := start(t, site)
		response, body := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantStatus(t, response, http.StatusTeapot)
		wantField(t, response.Header, "X-Handled", "yes")
		wantBody(t, body, "502")
	})
}

// TestGoCopyBuffer: a response that is broken off is broken off for the client, and
// the log says so.
func TestGoCopyBuffer(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := respondWith(t, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this", true)
		p := start(t, mount(https(relay)))
		response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		body, err := io.ReadAll(response.Body)
		if err == nil || string(body) != "only this" {
			t.Errorf("%q, %v, want what came and an error", body, err)
		}
		if e := p.logs.await(t, "broke off"); e.Level != "warn" && e.Level != "error" {
			t.Errorf("the log line's level is %s", e.Level)
		}
	})
}

// TestGoDeepCopy: those who come later see the client's request, not the relay's.
func TestGoDeepCopy(t *testing.T) {
	site := mount("https://"+wstest.DeadAddr(t)+"/base", "header_up X-Added yes")
	site.body += "\nhandle_errors {\nrespond \"{http.request.uri} {http.request.host} <{header.X-Added}{header.Via}{header.X-Forwarded-For}> {header.Cookie}\"\n}"
	p := start(t, site)
	_, body := ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/trace?x=1"), nil, "Host: some-name", "Cookie: a=b"))
	wantBody(t, body, "/websocket/trace?x=1 some-name <> a=b")
}

// TestGoPanicBodyError: also when the framing of the body is what breaks.
func TestGoPanicBodyError(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := respondWith(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", false)
		p := start(t, mount(https(relay)))
		response := do(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		body, err := io.ReadAll(response.Body)
		if err == nil || string(body) != "hello" {
			t.Errorf("%q, %v, want what came and an error", body, err)
		}
	})
}

// TestGoPanicClosesIncomingBody: a response that breaks off ends the upload too.
func TestGoPanicClosesIncomingBody(t *testing.T) {
	relay := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this")
	})
	p := start(t, mount(https(relay)))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Content-Length: 100000")
	c.write("the beginning")
	response := c.response("POST")
	if body, err := io.ReadAll(response.Body); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, and %v", body, err)
	}
}

// TestGoSelectFlushInterval: what is streamed with a length is passed on as it comes
// where its fields say so.
func TestGoSelectFlushInterval(t *testing.T) {
	for name, fields := range map[string][2]string{
		"text/event-stream":              {"Content-Type", "text/event-stream"},
		"text/event-stream with charset": {"Content-Type", "text/event-stream; charset=utf-8"},
		"Incremental":                    {"Incremental", "?1"},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				header := func(h http.Header) {
					h.Set(fields[0], fields[1])
					h.Set("Content-Length", "6")
				}
				handler, steps := stepping(header, "one", "two")
				p := start(t, mount(serve(t, handler).URL))
				checkSteps(t, p, protocol, header, steps, "one", "two")
			})
		})
	}
}

// TestGoWebSocket: a handshake, a message each way, and the fields of other handlers.
func TestGoWebSocket(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, nil)
		site := mount(https(relay), "header_down X-Modified true")
		site.body = "header X-Header X-Value\n" + site.body
		p := start(t, site)
		client, server := connect(t, p, relay, protocol)
		wantField(t, client.Header, "X-Header", "X-Value")
		wantField(t, client.Header, "X-Modified", "true")
		if protocol == http1 {
			wantField(t, client.Header, "Upgrade", "websocket")
			wantField(t, client.Header, "Connection", "Upgrade")
		}
		client.send(t, wstest.Message("Hello"))
		if f, err := server.Next(); err != nil || string(f.Payload) != "Hello" {
			t.Fatalf("%s, %v", f, err)
		}
		if err := server.Send(wstest.Message(`got "Hello"`)); err != nil {
			t.Fatal(err)
		}
		if f, err := client.frames.Next(); err != nil || string(f.Payload) != `got "Hello"` {
			t.Errorf("%s, %v", f, err)
		}
	})
}

// TestGoWebSocketCancellation: a client that goes in the middle of messages takes the
// relay's end along.
func TestGoWebSocketCancellation(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, nil)
		p := start(t, mount(https(relay)))
		client, server := connect(t, p, relay, protocol)
		stopped := make(chan error, 1)
		go func() {
			for {
				if err := server.Send(wstest.Message("response")); err != nil {
					stopped <- err
					return
				}
			}
		}()
		if _, err := client.frames.Next(); err != nil {
			t.Fatal(err)
		}
		client.reset()
		await(t, stopped, "end of the relay's connection")
	})
}

// TestGoWebSocketHalfTCP: each direction lives until its own end. TLS has no way to
// say that one does not read any more.
func TestGoWebSocketHalfTCP(t *testing.T) { checkHalfClose(t) }

// checkHalfClose has each end close its direction while the other goes on.
func checkHalfClose(t *testing.T) {
	relay := rawRelay(t, nil)
	p := start(t, mount(https(relay)))
	t.Run("relay closes write", func(t *testing.T) {
		client, server := connect(t, p, relay, http1)
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expectEnd(t, client.r)
		client.write(t, "client sends")
		expect(t, server.R, "client sends")
	})
	t.Run("client closes write", func(t *testing.T) {
		client, server := connect(t, p, relay, http1)
		if err := client.closeWrite(); err != nil {
			t.Fatal(err)
		}
		expectEnd(t, server.R)
		if err := server.WriteText("relay sends"); err != nil {
			t.Fatal(err)
		}
		expect(t, client.r, "relay sends")
	})
}

// TestGoUpgradeNoCloseWrite: a client's END_STREAM reaches the relay as a half-close. A
// relay's end cannot be passed on alone over HTTP/2, so it ends the stream, in order.
func TestGoUpgradeNoCloseWrite(t *testing.T) {
	relay := rawRelay(t, nil)
	p := start(t, mount(https(relay)))
	t.Run("client", func(t *testing.T) {
		client, server := connect(t, p, relay, http2x)
		client.write(t, "all of it")
		if err := client.closeWrite(); err != nil {
			t.Fatal(err)
		}
		expect(t, server.R, "all of it")
		expectEnd(t, server.R)
		if err := server.WriteText("the last word"); err != nil {
			t.Fatal(err)
		}
		server.CloseWrite()
		expect(t, client.r, "the last word")
		expectEnd(t, client.r)
	})
	t.Run("relay", func(t *testing.T) {
		client, server := connect(t, p, relay, http2x)
		if err := server.WriteText("all of it"); err != nil {
			t.Fatal(err)
		}
		server.CloseWrite()
		expect(t, client.r, "all of it")
		expectEnd(t, client.r)
	})
}

// TestGoUnannouncedTrailer: trailers come also after no body at all.
func TestGoUnannouncedTrailer(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			flush(w)
			w.Header().Set(http.TrailerPrefix+"X-Unannounced", "value")
		})
		p := start(t, mount(relay.URL))
		response, _ := ask(t, p.client(t, protocol), request(t, "GET", p.url("/websocket/trace"), nil))
		wantField(t, response.Trailer, "X-Unannounced", "value")
	})
}

// TestGoSetURL: the upstream's host and base path are used, and Host is the relay's.
func TestGoSetURL(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL+"/basePath"))
	ask(t, p.client(t, http1), request(t, "GET", p.url("/websocket/foo/bar"), nil, "Host: some-name"))
	seen := relay.next(t)
	if seen.URL.Path != "/basePath/foo/bar" || "https://"+seen.Host != relay.URL {
		t.Errorf("the relay got %s at %s", seen.URL, seen.Host)
	}
}

// TestGoSingleJoinSlash: base path and path meet in one slash.
func TestGoSingleJoinSlash(t *testing.T) {
	for _, test := range []struct{ base, target, want string }{
		{"/base", "/websocket/x", "/base/x"},
		{"/base/", "/websocket/x", "/base/x"},
		{"", "/websocket/x", "/x"},
		{"/", "/websocket/x", "/x"},
		{"", "/websocket", "/"},
		{"", "/websocket/", "/"},
		{"", "/websocket//x", "/x"}, // the SDK writes two at times
	} {
		t.Run(test.base+" and "+test.target, func(t *testing.T) {
			relay := newRelay(t, nil)
			p := start(t, mount(relay.URL+test.base))
			ask(t, p.client(t, http1), request(t, "GET", p.url(test.target), nil))
			if seen := relay.next(t); seen.RequestURI != test.want {
				t.Errorf("the relay got %s, want %s", seen.RequestURI, test.want)
			}
		})
	}
}

// TestGoJoinURLPath: what is escaped stays escaped.
func TestGoJoinURLPath(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, nil)
		p := start(t, mount(relay.URL+"/tree%2Froot"))
		client := p.client(t, protocol)
		for target, want := range map[string]string{
			"/a%2Fb":   "/tree%2Froot/a%2Fb",
			"/a/b/":    "/tree%2Froot/a/b/",
			"/%41":     "/tree%2Froot/%41",
			"/a%20b":   "/tree%2Froot/a%20b",
			"/%C3%A9/": "/tree%2Froot/%C3%A9/",
		} {
			ask(t, client, request(t, "GET", p.url("/websocket"+target), nil))
			if seen := relay.next(t); seen.RequestURI != want {
				t.Errorf("%s: the relay got %s, want %s", target, seen.RequestURI, want)
			}
		}
	})
}

// TestGo1xxHeadersNotModifiedAfterRoundTrip: 1xx responses that come while the client
// goes touch nothing that is not theirs any more. The race detector watches. With so many
// fields an HTTP/2 server is likely to be still reading them when the client goes.
func TestGo1xxHeadersNotModifiedAfterRoundTrip(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			for i := range 500 {
				w.Header().Set(fmt.Sprintf("X-Hint-%d", i), "hint")
			}
			for range 5 {
				w.WriteHeader(http.StatusEarlyHints)
			}
		})
		p := start(t, mount(relay.URL))
		client := p.client(t, protocol)
		var asking sync.WaitGroup
		for range 10 {
			asking.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { cancel(); return nil }}
				r := request(t, "GET", p.url("/websocket/trace"), nil)
				if response, err := client.Do(r.WithContext(httptrace.WithClientTrace(ctx, trace))); err == nil {
					response.Body.Close()
				}
			})
		}
		asking.Wait()
	})
}

// hints notes the 1xx responses to r.
func hints(r *http.Request) (*http.Request, func() []hint) {
	var mu sync.Mutex
	var seen []hint
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, hint{code, http.Header(header)})
		return nil
	}}
	return r.WithContext(httptrace.WithClientTrace(r.Context(), trace)), func() []hint {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

// hint is a 1xx response.
type hint struct {
	code   int
	header http.Header
}

// TestGo1xxResponses: each 1xx response with its own fields, then the final one.
func TestGo1xxResponses(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Link", "</style.css>; rel=preload")
			w.Header().Add("Link", "</script.js>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Add("Link", "</foo.js>; rel=preload")
			w.WriteHeader(http.StatusProcessing)
			io.WriteString(w, "Hello")
		})
		p := start(t, mount(relay.URL))
		r, seen := hints(request(t, "GET", p.url("/websocket/trace"), nil))
		response, body := ask(t, p.client(t, protocol), r)
		wantBody(t, body, "Hello")
		const two = "</style.css>; rel=preload, </script.js>; rel=preload"
		wantField(t, response.Header, "Link", two+", </foo.js>; rel=preload")
		got := seen()
		if len(got) != 2 || got[0].code != 103 || got[1].code != 102 {
			t.Fatalf("1xx responses: %v, want 103 and 102", got)
		}
		wantField(t, got[0].header, "Link", two)
		wantField(t, got[1].header, "Link", two+", </foo.js>; rel=preload")
	})
}

// queries are such as two readers may read differently.
var queries = []string{"a=1&a=2;b=3", "a=1&a=%zz&b=3", "a=%zz", strings.Repeat("a=1&", 1000) + "a=1"}

func checkQueries(t *testing.T, site site, relay *relay) {
	overHTTP(t, func(t *testing.T, protocol string) {
		p := start(t, site)
		client := p.client(t, protocol)
		for _, query := range queries {
			response, _ := ask(t, client, request(t, "GET", p.url("/websocket/trace?"+query), nil))
			wantStatus(t, response, http.StatusOK)
			if seen := relay.next(t); seen.URL.RawQuery != query {
				t.Errorf("the relay got the query %.80q, want %.80q", seen.URL.RawQuery, query)
			}
		}
	})
}

// TestGoQueryParameterSmuggling: the query is passed on byte for byte.
func TestGoQueryParameterSmuggling(t *testing.T) {
	relay := newRelay(t, nil)
	checkQueries(t, mount(relay.URL), relay)
}

// TestGoQueryParameterSmugglingParsesForm: also when another handler has read it.
func TestGoQueryParameterSmugglingParsesForm(t *testing.T) {
	relay := newRelay(t, nil)
	site := mount(relay.URL)
	site.body = "@a query a=none\nrespond @a 403\n" + site.body
	checkQueries(t, site, relay)
}

// TestGoHijackCopyError: a relay that breaks off right after its 101.
func TestGoHijackCopyError(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshake(); err == nil {
				c.Reset()
			}
		})
		p := start(t, mount(https(relay)))
		client := p.open(t, protocol, target, "")
		wantStatus(t, client.Response, opened(protocol))
		if rest, _ := io.ReadAll(client.r); len(rest) > 0 {
			t.Errorf("%q after the 101", rest)
		}
		p.logs.await(t, "tunnel closed")
	})
}

// TestGoInvalidUpstream100ContinueDoNotHang: no relay can be reached, and the client
// waits before it sends its body.
func TestGoInvalidUpstream100ContinueDoNotHang(t *testing.T) {
	for name, fields := range map[string][]string{
		"Expect":           {"Content-Length: 16", "Expect: 100-continue"},
		"incomplete chunk": {"Transfer-Encoding: chunked"},
		"large":            {"Content-Length: 100000"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, mount("https://"+wstest.DeadAddr(t)))
			c := p.dial(t)
			c.request("POST", "/websocket/trace", fields...)
			c.SetReadDeadline(time.Now().Add(patience))
			response := c.response("POST")
			wantStatus(t, response, http.StatusBadGateway)
		})
	}
}
