package integration_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStreamHandshake shows what a relay and a client see of a WebSocket over
// HTTP/2 or HTTP/3: one over HTTP/1.1 and a stream.
func TestStreamHandshake(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		hello, bye := wire(false, wstest.Message("hello")), wire(true, wstest.CloseFrame(1000))
		requests := make(chan *http.Request, 1)
		addr := rawRelay(t, func(c *wstest.Conn) {
			req, err := c.AcceptHandshakeWith(hello, "Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Extensions: x", "Set-Cookie: a=b", "X-Relay: kept")
			if err != nil {
				t.Error(err)
			}
			requests <- req
			got, err := c.ReadToEnd()
			if err != nil || string(got) != bye {
				t.Errorf("the relay got %q (%v)", got, err)
			}
			c.WriteText(wire(false, wstest.CloseFrame(1000)))
		}).Addr
		p := start(t, mount("wss://"+addr, "").over(protocol))
		s := p.open(t, protocol, "/websocket//a%2Fb?apiKey=k&sessionId=s1", "",
			"Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Extensions: x; y", "Cookie: a=b", "Authorization: x",
			"X-Forwarded-For: 203.0.113.1", "Origin: https://page.example", "User-Agent: test/1")
		wantStatus(t, s.Response, http.StatusOK)
		for field, want := range map[string]string{
			"Sec-Websocket-Protocol": "2.0", "Sec-Websocket-Extensions": "x", "X-Relay": "kept", "Via": "1.1 Caddy",
			"Sec-Websocket-Accept": "", "Connection": "", "Upgrade": "", "Set-Cookie": "",
		} {
			wantLine(t, "response", s.Header, field, want)
		}
		req := <-requests
		if req.Method != "GET" || req.RequestURI != "/a%2Fb?apiKey=k&sessionId=s1" || req.Host != addr || req.Proto != "HTTP/1.1" {
			t.Errorf("the relay saw %s %s %s at %s", req.Method, req.RequestURI, req.Proto, req.Host)
		}
		via := "2.0 Caddy"
		if protocol == http3x {
			via = "3.0 Caddy"
		}
		for field, want := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Protocol": "2.0",
			"Sec-Websocket-Extensions": "x; y", "Cookie": "", "Authorization": "", ":protocol": "", "Origin": "https://page.example",
			"X-Forwarded-For": "203.0.113.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": p.addr, "Via": via,
			"User-Agent": "test/1", "Transfer-Encoding": "", "Content-Length": "",
		} {
			wantLine(t, "request", req.Header, field, want)
		}
		if !handshake.ValidKey(req.Header["Sec-Websocket-Key"]) {
			t.Errorf("Sec-WebSocket-Key: %q", req.Header["Sec-Websocket-Key"])
		}

		expect(t, s.r, hello)
		s.write(t, bye)
		s.closeWrite()
		rest, err := io.ReadAll(s.r)
		if err != nil || string(rest) != wire(false, wstest.CloseFrame(1000)) {
			t.Errorf("the client got %q (%v)", rest, err)
		}
		closed := p.closed(t)
		if closed["close_code"] != 1000.0 || closed["closed_by"] != "client" || closed["session_id"] != "s1" {
			t.Errorf("the log says %v", closed)
		}
	})
}

// TestStreamCarries sends a lot each way, begun before the response is there.
func TestStreamCarries(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		early := wire(true, wstest.Message("early"))
		fromClient := wire(true, binaryMessage(4<<20))
		fromRelay := wire(false, binaryMessage(4<<20))
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			got := make([]byte, len(early)+len(fromClient))
			if _, err := io.ReadFull(c.R, got); err != nil || string(got) != early+fromClient {
				t.Errorf("the client's bytes do not arrive as they were sent (%v)", err)
			}
			c.WriteText(fromRelay)
			c.ReadToEnd()
		}).Addr
		p := start(t, mount("wss://"+addr, "").over(protocol))
		s := p.open(t, protocol, "/websocket", early)
		wantStatus(t, s.Response, http.StatusOK)
		s.write(t, fromClient)
		expect(t, s.r, fromRelay)
		s.closeWrite()
	})
}

// TestStreamHalfClose has a client that is done sending and is still answered.
func TestStreamHalfClose(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		question, reply := wire(true, wstest.Message("?")), wire(false, binaryMessage(100_000))
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			if got, err := c.ReadToEnd(); err != nil || string(got) != question {
				t.Errorf("the relay got %q (%v)", got, err)
			}
			c.WriteText(reply)
		}).Addr
		p := start(t, mount("wss://"+addr, "").over(protocol))
		s := p.open(t, protocol, "/websocket", "")
		s.write(t, question)
		s.closeWrite()
		if got, err := io.ReadAll(s.r); err != nil || string(got) != reply {
			t.Errorf("the client got %d bytes (%v)", len(got), err)
		}
	})
}

// TestStreamAbnormalEnd shows that a reset on one side is one on the other. Over HTTP/3
// it would throw away what has been sent just now, so that the client gets an end
// without a Close frame.
func TestStreamAbnormalEnd(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		hello := wire(true, wstest.Message("hello"))
		byRelay, ended := make(chan bool, 1), make(chan error, 1)
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(hello); err != nil {
				t.Error(err)
			}
			if <-byRelay {
				c.Reset()
				return
			}
			_, err := c.ReadToEnd()
			ended <- err
		}).Addr
		p := start(t, mount("wss://"+addr, "").over(protocol))

		s := p.open(t, protocol, "/websocket", "")
		expect(t, s.r, hello)
		s.reset()
		byRelay <- false
		if err := <-ended; err == nil || isTimeout(err) {
			t.Errorf("a reset by the client looks like %v to the relay", err)
		}

		s = p.open(t, protocol, "/websocket", "")
		expect(t, s.r, hello)
		byRelay <- true
		_, err := io.ReadAll(s.r)
		_, reset := errors.AsType[http2.StreamError](err)
		if inOrder := err == nil; !reset && !(inOrder && protocol == http3x) {
			t.Errorf("a reset by the relay looks like %v to the client", err)
		}
		p.logs.wait(t, 2, `"tunnel closed"`, `"close_code":1006`)
	})
}

// TestStreamIsSilent shows that Caddy's idle timeouts for bodies do not end a
// WebSocket: by the time that they have ended a request that began later, twice, it
// still works.
func TestStreamIsSilent(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		relay := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			io.Copy(c, c.R)
		}).Addr
		site := mount("wss://"+relay, "")
		site.server = shortTimeouts
		if protocol == http3x {
			// It is QUIC's idle timeout, too, and a slow handshake must not take that
			// long. TestHTTP3Silence is about it.
			site.server = strings.Replace(shortTimeouts, "\nidle 50ms", "", 1)
		}
		p := start(t, site.over(protocol))
		s := p.open(t, protocol, "/websocket", "")
		wantStatus(t, s.Response, http.StatusOK)
		s.write(t, "before")
		expect(t, s.r, "before")
		p.awaitTimeouts(t)
		s.write(t, "after")
		expect(t, s.r, "after")
		s.closeWrite()
	})
}

// TestStreamOutlivesTimeouts shows that the server's limits on the time that a request
// may take do not end a WebSocket.
func TestStreamOutlivesTimeouts(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		site := mount("wss://"+newEchoRelay(t), "")
		site.server = "timeouts {\nread_body 300ms\nread_header 300ms\nwrite 300ms\n}"
		p := start(t, site.over(protocol))
		s := p.open(t, protocol, "/websocket", "")
		wantStatus(t, s.Response, http.StatusOK)
		for _, piece := range []string{"before", "after", "long after"} {
			s.write(t, piece)
			expect(t, s.r, piece)
			p.awaitTimeouts(t)
		}
		s.closeWrite()
	})
}

// newEchoRelay returns the address of a relay that sends back what comes, with fields
// in its 101.
func newEchoRelay(t *testing.T, fields ...string) (addr string) {
	return rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith("", fields...); err != nil {
			t.Error(err)
		}
		io.Copy(c, c.R)
	}).Addr
}

// TestStreamFieldsOfUpgrade has a relay whose 101 has fields that a 200 on a stream
// must not have.
func TestStreamFieldsOfUpgrade(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		for _, field := range []string{"Content-Length: 0", "Transfer-Encoding: chunked", "Content-Encoding: gzip", "Keep-Alive: timeout=5", "Trailer: X-Late"} {
			t.Run(field, func(t *testing.T) {
				p := start(t, mount("wss://"+newEchoRelay(t, field, "X-Kept: yes"), "").over(protocol))
				s := p.open(t, protocol, "/websocket", "")
				wantStatus(t, s.Response, http.StatusOK)
				name, _, _ := strings.Cut(field, ":")
				wantLine(t, "response", s.Header, name, "")
				wantLine(t, "response", s.Header, "X-Kept", "yes")
				s.write(t, "hello")
				expect(t, s.r, "hello")
				s.closeWrite()
			})
		}
	})
}

// TestStreamThroughWrappers has other directives around the handler that are made for
// whole responses and requests.
func TestStreamThroughWrappers(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		site := site{body: "route {\ntemplates\nencode {\nminimum_length 1\n}\nrequest_body {\nmax_size 100\n}\n" +
			"header >X-Deferred yes\nlog_append x y\n" +
			directive("/websocket", "wss://"+newEchoRelay(t, "Content-Type: text/html"), "") + "\n}"}
		p := start(t, site.over(protocol))
		s := p.open(t, protocol, "/websocket", "", "Accept-Encoding: gzip")
		wantStatus(t, s.Response, http.StatusOK)
		wantLine(t, "response", s.Header, "X-Deferred", "yes")
		piece := strings.Repeat("{{now}}", 100)
		for range 3 {
			s.write(t, piece)
			expect(t, s.r, piece)
		}
		s.closeWrite()
	})
}

// TestStreamIdleTimeout shows that the tunnel's own idle timeout holds for streams.
func TestStreamIdleTimeout(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		told := make(chan bool)
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			wantClose(t, c.Frames, wstest.GoingAway)
			close(told)
			c.WriteText(wire(false, wstest.CloseFrame(1001)))
		}).Addr
		p := start(t, mount("wss://"+addr, "idle_timeout 50ms").over(protocol))
		s := p.open(t, protocol, "/websocket", "")
		wantClose(t, s.frames, wstest.GoingAway)
		s.write(t, wire(true, wstest.CloseFrame(1001)))
		s.closeWrite()
		<-told
		if closed := p.closed(t); closed["reason"] != "idle" || closed["closed_by"] != "proxy" {
			t.Errorf("the log says %v", closed)
		}
	})
}

// TestStreamRefusals has handshakes that become no WebSocket.
func TestStreamRefusals(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		refusing := newRelay(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "not you", http.StatusForbidden) })
		silent := rawRelay(t, func(c *wstest.Conn) { c.ReadToEnd() }).Addr
		p := start(t, site{body: strings.Join([]string{
			directive("/refusing", refusing.URL, ""),
			directive("/dead", "wss://"+wstest.DeadAddr(t), ""),
			directive("/silent", "wss://"+silent, "handshake_timeout 100ms"),
		}, "\n")}.over(protocol))
		for _, test := range []struct {
			target, field string
			status        int
		}{
			{"/refusing", "", 403},
			{"/refusing", "Sec-WebSocket-Version:", 400},
			{"/refusing", "Sec-WebSocket-Version: 8", 426},
			{"/dead", "", 502},
			{"/silent", "", 504},
		} {
			s := p.open(t, protocol, test.target, "", "Origin: https://page.example", test.field)
			if test.status != http.StatusForbidden {
				wantRefusal(t, test.target, s.Response, test.status)
				continue
			}
			wantStatus(t, s.Response, test.status)
			if body, err := io.ReadAll(s.r); err != nil || string(body) != "not you\n" {
				t.Errorf("body %q (%v)", body, err)
			}
			refusing.next(t)
		}
		if refusing.saw() {
			t.Errorf("the relay saw %v", refusing.next(t))
		}
	})
}
