package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// transportWays returns options with which small requests take the pool, and Caddy's
// transport.
func transportWays() map[string]string {
	return map[string]string{"pool": "", "transport": transport("read_timeout 1h")}
}

// unfinished are requests whose bodies have not come yet.
var unfinished = [][]string{
	{"Transfer-Encoding: chunked", "1\r\n{\r\n"},
	{"Content-Length: 100000", strings.Repeat("x", 1000)},
	{"Content-Length: 100000\r\nExpect: 100-continue", ""},
	{"Content-Length: 10\r\nExpect: 100-continue", ""},
}

// TestUnreachableWithUnfinishedBody: nobody waits for a body that nobody wants.
func TestUnreachableWithUnfinishedBody(t *testing.T) {
	for way, options := range transportWays() {
		p := start(t, mount("wss://"+wstest.DeadAddr(t), options))
		for _, body := range unfinished {
			c := p.dial(t)
			c.request("POST", "/websocket/trace", body[0], "Origin: https://page.example")
			c.write(body[1])
			wantRefusal(t, way+" "+body[0], c.response("POST"), http.StatusBadGateway)
			c.close()
		}
		p.stop(t)
	}
}

// TestTooLargeWithUnfinishedBody is the same for a body that is refused unread.
func TestTooLargeWithUnfinishedBody(t *testing.T) {
	p := start(t, mount("wss://"+wstest.DeadAddr(t), "max_body_size 70000"))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Content-Length: 100000")
	c.wantStatus(c.response("POST"), http.StatusRequestEntityTooLarge)
}

// TestUploadGoesOnAfterResponse: a client that has its response and goes on uploading, fast
// or slowly, does not hold its connection for ever.
func TestUploadGoesOnAfterResponse(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.WriteResponse("429 Too Many Requests", "later", "Connection: close")
		c.CloseWrite()
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr, "max_body_size 100GiB"))
	for name, size := range map[string]int{"fast": 64 << 10, "slow": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := p.dial(t)
			c.request("POST", "/websocket/trace", "Content-Length: 10000000000")
			over := make(chan bool)
			go func() {
				defer close(over)
				ticks := time.NewTicker(10 * time.Millisecond)
				defer ticks.Stop()
				for piece := strings.Repeat("x", size); ; <-ticks.C {
					if _, err := io.WriteString(c, piece); err != nil {
						return
					}
				}
			}()
			response := c.response("POST")
			c.wantStatus(response, http.StatusTooManyRequests)
			if body, err := io.ReadAll(response.Body); string(body) != "later" || err != nil {
				t.Errorf("body %q (%v)", body, err)
			}
			await(t, over, "end of the upload")
		})
	}
}

// TestStalledUploadAfterRefusal: a client that stops in the middle of a refused upload does
// not hold its connection for long, whether or not there are error routes.
func TestStalledUploadAfterRefusal(t *testing.T) {
	relay := newRelay(t, nil)
	for name, routes := range map[string]string{"no error routes": "", "error routes": "\nhandle_errors {\nrespond sorry\n}"} {
		s := mount(relay.URL, "origins https://app.example")
		s.body += routes
		t.Run(name, func(t *testing.T) {
			p := start(t, s)
			for _, body := range unfinished {
				t.Run(body[0], func(t *testing.T) {
					t.Parallel()
					c := p.dial(t)
					c.request("POST", "/websocket/trace", body[0], "Origin: https://page.example")
					c.write(body[1])
					response := c.response("POST")
					c.wantStatus(response, http.StatusForbidden)
					io.Copy(io.Discard, response.Body)
					c.Raw().SetReadDeadline(time.Now().Add(patience / 6))
					if _, err := c.R.Peek(1); err != io.EOF {
						t.Errorf("%v, want the end of the connection", err)
					}
				})
			}
		})
	}
}

// TestHeadFirst has a relay that sends its body only when the client has the head.
func TestHeadFirst(t *testing.T) {
	for _, head := range []string{"", "Content-Length: 5\r\n", "Content-Length: 5\r\nIncremental: ?1\r\n", "Content-Length: 5\r\nContent-Type: text/event-stream\r\n"} {
		for _, request := range []string{"Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
			got := make(chan bool)
			addr := rawRelay(t, func(c *wstest.Conn) {
				if _, err := c.ReadRequest(); err != nil {
					t.Error(err)
				}
				c.WriteText("HTTP/1.1 200 OK\r\n" + head + "\r\n")
				<-got
				c.WriteText("beg")
				<-got
				c.WriteText("in")
			}).Addr
			p := start(t, mount("wss://"+addr, ""))
			c := p.dial(t)
			c.write("POST /websocket/x HTTP/1.1\r\nHost: proxy.example\r\n" + request)
			response := c.response("POST")
			c.wantStatus(response, http.StatusOK)
			got <- true
			piece := make([]byte, 3)
			if _, err := io.ReadFull(response.Body, piece); err != nil || string(piece) != "beg" {
				t.Errorf("%q: got %q (%v)", head, piece, err)
			}
			got <- true
			if rest, err := io.ReadAll(response.Body); err != nil || string(rest) != "in" {
				t.Errorf("%q: got %q (%v)", head, rest, err)
			}
			c.close()
			p.stop(t)
		}
	}
}

// TestFullDuplex has both ends take turns within one request.
func TestFullDuplex(t *testing.T) {
	relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
		controller := http.NewResponseController(w)
		controller.EnableFullDuplex()
		controller.Flush()
		piece := make([]byte, 5)
		for {
			if _, err := io.ReadFull(r.Body, piece); err != nil {
				return
			}
			w.Write(bytes.ToUpper(piece))
			controller.Flush()
		}
	})
	p := start(t, mount(relay.URL, ""))
	c := p.dial(t)
	c.request("POST", "/websocket/echo", "Transfer-Encoding: chunked")
	response := c.response("POST")
	c.wantStatus(response, http.StatusOK)
	for _, piece := range []string{"first", "again"} {
		c.write("5\r\n" + piece + "\r\n")
		got := make([]byte, 5)
		if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != strings.ToUpper(piece) {
			t.Fatalf("%q came back as %q (%v)", piece, got, err)
		}
	}
	c.write("0\r\n\r\n")
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
		t.Errorf("the end is %q (%v)", rest, err)
	}
	if !response.Close {
		t.Error("what comes after a response that overtook its request could be taken for another request")
	}
}

// TestTrailersOfNothing has trailers after an empty body, announced and not.
func TestTrailersOfNothing(t *testing.T) {
	for _, announced := range []string{"", "Trailer: X-Sum\r\n"} {
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err == nil {
				c.WriteText("HTTP/1.1 200 OK\r\n" + announced + "Transfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 7\r\n\r\n")
			}
		}).Addr
		p := start(t, mount("wss://"+addr, ""))
		c := p.dial(t)
		c.request("POST", "/websocket", "Content-Length: 0", "TE: trailers")
		response := c.response("POST")
		body, err := io.ReadAll(response.Body)
		if err != nil || len(body) > 0 || response.Trailer.Get("X-Sum") != "7" {
			t.Errorf("%q: body %q (%v), trailers %v", announced, body, err, response.Trailer)
		}
		c.close()
		p.stop(t)
	}
}

// TestHeadOfBrokenResponse: a response that breaks off before its first byte has a
// head all the same, and is logged.
func TestHeadOfBrokenResponse(t *testing.T) {
	for _, head := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err == nil {
				c.WriteText("HTTP/1.1 207 Multi-Status\r\n" + head + "\r\n\r\n")
			}
		}).Addr
		p := start(t, mount("wss://"+addr, ""))
		c := p.dial(t)
		c.request("POST", "/websocket", "Content-Length: 0")
		response := c.response("POST")
		c.wantStatus(response, http.StatusMultiStatus)
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Errorf("%s: the client takes the response for whole", head)
		}
		p.logs.wait(t, 1, `"relay failed"`, "broke off", addr, `"stage":"invalid"`)
		c.close()
		p.stop(t)
	}
}

// TestTimeoutEndsWithTheHead has a relay that responds before the request is over: by
// the time that the rest comes, a later request has timed out.
func TestTimeoutEndsWithTheHead(t *testing.T) {
	goOn := make(chan bool)
	relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
		controller := http.NewResponseController(w)
		controller.EnableFullDuplex()
		io.WriteString(w, "begin")
		controller.Flush()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		<-goOn
		io.WriteString(w, "-end-")
	})
	silent := rawRelay(t, func(c *wstest.Conn) { c.ReadToEnd() }).Addr
	p := start(t, site{body: directive("/websocket", relay.URL, "handshake_timeout 100ms") + "\n" +
		directive("/silent", "wss://"+silent, "handshake_timeout 100ms")})
	for _, body := range []struct{ field, begin, end string }{
		{"Transfer-Encoding: chunked", "1\r\n{\r\n", "1\r\n}\r\n0\r\n\r\n"},
		{"Content-Length: 100000", strings.Repeat("x", 50_000), strings.Repeat("x", 50_000)},
	} {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", body.field)
		c.write(body.begin)
		response := c.response("POST")
		c.wantStatus(response, http.StatusOK)
		c.write(body.end)
		for range 2 {
			other := p.dial(t)
			other.wantStatus(other.try("POST", "/silent"), http.StatusGatewayTimeout)
			other.close()
		}
		goOn <- true
		if got, err := io.ReadAll(response.Body); err != nil || string(got) != "begin-end-" {
			t.Errorf("%s: got %q (%v)", body.field, got, err)
		}
	}
}

// TestRelayStopsReading: a relay that takes no more of a large upload has timed out.
func TestRelayStopsReading(t *testing.T) {
	done := make(chan bool)
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		<-done
	}).Addr
	defer close(done)
	p := start(t, mount("wss://"+addr, "handshake_timeout 200ms\nmax_body_size 64MiB"))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Content-Length: 50000000")
	go io.Copy(c, strings.NewReader(strings.Repeat("x", 50_000_000)))
	c.wantStatus(c.response("POST"), http.StatusGatewayTimeout)
}

// TestEarlyRefusal has a relay that responds with 429 and closes the connection
// without reading: the client gets the 429, whichever way the request took.
func TestEarlyRefusal(t *testing.T) {
	for way, options := range transportWays() {
		for _, overTLS := range []bool{true, false} {
			scheme, tlsConfig, options := "wss://", leaf.ServerConfig(), options
			if !overTLS {
				scheme, tlsConfig = "ws://", nil
				options = strings.Replace(options, "tls_trust_pool file "+rootsFile+"\n", "", 1)
			}
			addr := rawRelayWith(t, tlsConfig, func(c *wstest.Conn) {
				// Whoever resets must see to it that the response has left.
				if _, err := c.R.Peek(1); err == nil {
					c.WriteText("HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow")
					if err := wstest.AwaitSent(c.Raw()); err != nil {
						t.Error(err)
					}
				}
				c.Drop()
			}).Addr
			p := start(t, mount(scheme+addr, options))
			for _, size := range []int{4 << 10, 64 << 10, 200_000} {
				body := strings.Repeat("x", size)
				for n := range 50 {
					c := p.dial(t)
					c.request("POST", "/websocket/trace", fmt.Sprintf("Content-Length: %d", size))
					go io.WriteString(c, body)
					response := c.response("POST")
					got, err := io.ReadAll(response.Body)
					if response.StatusCode != http.StatusTooManyRequests || err != nil || string(got) != "slow" {
						t.Fatalf("%s, %s, %d bytes, try %d: status %d, body %q (%v)", way, scheme, size, n, response.StatusCode, got, err)
					}
					c.close()
				}
			}
			p.stop(t)
		}
	}
}
