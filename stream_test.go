package watchrtcproxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
)

// TestStreamHandshake shows what a relay and a client see of a WebSocket over
// HTTP/2 or HTTP/3: one over HTTP/1.1 and a stream.
func TestStreamHandshake(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		hello := frame(bitFin|opText, false, []byte("hello"))
		requests := make(chan *http.Request, 1)
		addr := newRawRelay(t, relayTLS(), func(c *rawConn) {
			req, err := c.upgrade(hello, "Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Extensions: x", "Set-Cookie: a=b", "X-Relay: kept")
			if err != nil {
				t.Error(err)
			}
			requests <- req
			got, err := c.drain()
			if err != nil || string(got) != closeFrameOf(1000, true) {
				t.Errorf("the relay got %q (%v)", got, err)
			}
			c.write(closeFrameOf(1000, false))
		})
		p := start(t, mountOn("wss://"+addr, ""))
		s := open(t, p, "/websocket//a%2Fb?apiKey=k&sessionId=s1", "",
			"Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Extensions: x; y", "Cookie: a=b", "Authorization: x",
			"X-Forwarded-For: 203.0.113.1", "Origin: https://page.example")
		s.wantStatus(http.StatusOK)
		for field, want := range map[string]string{
			"Sec-Websocket-Protocol": "2.0", "Sec-Websocket-Extensions": "x", "X-Relay": "kept", "Via": "1.1 Caddy",
			"Sec-Websocket-Accept": "", "Connection": "", "Upgrade": "", "Set-Cookie": "",
		} {
			wantField(t, "answer", s.Header, field, want)
		}
		req := <-requests
		if req.Method != "GET" || req.RequestURI != "/a%2Fb?apiKey=k&sessionId=s1" || req.Host != addr || req.Proto != "HTTP/1.1" {
			t.Errorf("the relay saw %s %s %s at %s", req.Method, req.RequestURI, req.Proto, req.Host)
		}
		via := "2.0 Caddy"
		if !extendedConnectEnabled() {
			via = "3.0 Caddy"
		}
		for field, want := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-Websocket-Version": "13", "Sec-Websocket-Protocol": "2.0",
			"Sec-Websocket-Extensions": "x; y", "Cookie": "", "Authorization": "", ":protocol": "", "Origin": "https://page.example",
			"X-Forwarded-For": "203.0.113.1, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": p.addr, "Via": via,
			"User-Agent": "test/1", "Transfer-Encoding": "", "Content-Length": "",
		} {
			wantField(t, "request", req.Header, field, want)
		}
		if !handshake.ValidKey(req.Header["Sec-Websocket-Key"]) {
			t.Errorf("Sec-WebSocket-Key: %q", req.Header["Sec-Websocket-Key"])
		}

		s.read(hello)
		s.write(closeFrameOf(1000, true))
		s.w.Close()
		rest, err := io.ReadAll(s.r)
		if err != nil || string(rest) != closeFrameOf(1000, false) {
			t.Errorf("the client got %q (%v)", rest, err)
		}
		closed := p.closed(t)
		if closed["close_code"] != 1000.0 || closed["closed_by"] != "client" || closed["session_id"] != "s1" {
			t.Errorf("the log says %v", closed)
		}
	})
}

// TestStreamCarries sends a lot each way, begun before the answer is there.
func TestStreamCarries(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		early := frame(bitFin|opText, true, []byte("early"))
		fromClient := frame(bitFin|opBinary, true, randomBytes(4<<20))
		fromRelay := frame(bitFin|opBinary, false, randomBytes(4<<20))
		addr := newRawRelay(t, relayTLS(), func(c *rawConn) {
			if _, err := c.upgrade(""); err != nil {
				t.Error(err)
			}
			got := make([]byte, len(early)+len(fromClient))
			if _, err := io.ReadFull(c.r, got); err != nil || string(got) != early+fromClient {
				t.Errorf("the client's bytes do not arrive as they were sent (%v)", err)
			}
			c.write(fromRelay)
			c.drain()
		})
		p := start(t, mountOn("wss://"+addr, ""))
		s := open(t, p, "/websocket", early)
		s.wantStatus(http.StatusOK)
		s.write(fromClient)
		s.read(fromRelay)
		s.w.Close()
	})
}

// TestStreamHalfClose has a client that is done sending and is still answered.
func TestStreamHalfClose(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		question, reply := frame(bitFin|opText, true, []byte("?")), frame(bitFin|opBinary, false, randomBytes(100_000))
		addr := newRawRelay(t, relayTLS(), func(c *rawConn) {
			if _, err := c.upgrade(""); err != nil {
				t.Error(err)
			}
			if got, err := c.drain(); err != nil || string(got) != question {
				t.Errorf("the relay got %q (%v)", got, err)
			}
			c.write(reply)
		})
		p := start(t, mountOn("wss://"+addr, ""))
		s := open(t, p, "/websocket", "")
		s.write(question)
		s.w.Close()
		if got, err := io.ReadAll(s.r); err != nil || string(got) != reply {
			t.Errorf("the client got %d bytes (%v)", len(got), err)
		}
	})
}

// TestStreamAbnormalEnd shows that a reset on one side is one on the other.
func TestStreamAbnormalEnd(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		hello := frame(bitFin|opText, true, []byte("hello"))
		byRelay, ended := make(chan bool, 1), make(chan error, 1)
		addr := newRawRelay(t, relayTLS(), func(c *rawConn) {
			if _, err := c.upgrade(hello); err != nil {
				t.Error(err)
			}
			if <-byRelay {
				reset(c.Conn)
				return
			}
			_, err := c.drain()
			ended <- err
		})
		p := start(t, mountOn("wss://"+addr, ""))

		s := open(t, p, "/websocket", "")
		s.read(hello)
		s.reset()
		byRelay <- false
		if err := <-ended; err == nil || isTimeout(err) {
			t.Errorf("a reset by the client looks like %v to the relay", err)
		}

		s = open(t, p, "/websocket", "")
		s.read(hello)
		byRelay <- true
		_, err := io.ReadAll(s.r)
		var http2Reset http2.StreamError
		var http3Reset *http3.Error
		if !errors.As(err, &http2Reset) && !errors.As(err, &http3Reset) {
			t.Errorf("a reset by the relay looks like %v to the client", err)
		}
		p.logs.wait(testContext(t), t, 2, `"tunnel closed"`, `"close_code":1006`)
	})
}

// TestStreamIsSilent shows that Caddy's idle timeouts for bodies do not end a
// WebSocket: by the time that they have ended a request that began later, twice, it
// still works.
func TestStreamIsSilent(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		relay := newRawRelay(t, relayTLS(), func(c *rawConn) {
			if _, err := c.upgrade(""); err != nil {
				t.Error(err)
			}
			io.Copy(c.Conn, c.r)
		})
		site := mountOn("wss://"+relay, "")
		site.server = shortTimeouts
		p := start(t, site)
		s := open(t, p, "/websocket", "")
		s.wantStatus(http.StatusOK)
		s.write("before")
		s.read("before")
		p.awaitTimeouts(t)
		s.write("after")
		s.read("after")
		s.w.Close()
	})
}

// TestStreamOutlivesTimeouts shows that the server's limits on the time that a request
// may take do not end a WebSocket.
func TestStreamOutlivesTimeouts(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		site := mountOn("wss://"+newEchoRelay(t), "")
		site.server = "timeouts {\nread_body 300ms\nread_header 300ms\nwrite 300ms\n}"
		p := start(t, site)
		s := open(t, p, "/websocket", "")
		s.wantStatus(http.StatusOK)
		for _, piece := range []string{"before", "after", "long after"} {
			s.write(piece)
			s.read(piece)
			p.awaitTimeouts(t)
		}
		s.w.Close()
	})
}

// newEchoRelay returns the address of a relay that sends back what comes, with fields
// in its 101.
func newEchoRelay(t *testing.T, fields ...string) (addr string) {
	return newRawRelay(t, relayTLS(), func(c *rawConn) {
		if _, err := c.upgrade("", fields...); err != nil {
			t.Error(err)
		}
		io.Copy(c.Conn, c.r)
	})
}

// TestStreamFieldsOfUpgrade has a relay whose 101 has fields that a 200 on a stream
// must not have.
func TestStreamFieldsOfUpgrade(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		for _, field := range []string{"Content-Length: 0", "Transfer-Encoding: chunked", "Content-Encoding: gzip", "Keep-Alive: timeout=5", "Trailer: X-Late"} {
			t.Run(field, func(t *testing.T) {
				p := start(t, mountOn("wss://"+newEchoRelay(t, field, "X-Kept: yes"), ""))
				s := open(t, p, "/websocket", "")
				s.wantStatus(http.StatusOK)
				name, _, _ := strings.Cut(field, ":")
				wantField(t, "answer", s.Header, name, "")
				wantField(t, "answer", s.Header, "X-Kept", "yes")
				s.write("hello")
				s.read("hello")
				s.w.Close()
			})
		}
	})
}

// TestStreamThroughWrappers has other directives around the handler that are made for
// whole responses and requests.
func TestStreamThroughWrappers(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		site := site{body: "route {\ntemplates\nencode {\nminimum_length 1\n}\nrequest_body {\nmax_size 100\n}\n" +
			"header >X-Deferred yes\nlog_append x y\n" +
			directiveFor("/websocket", "wss://"+newEchoRelay(t, "Content-Type: text/html"), "") + "\n}"}
		p := start(t, site)
		s := open(t, p, "/websocket", "", "Accept-Encoding: gzip")
		s.wantStatus(http.StatusOK)
		wantField(t, "answer", s.Header, "X-Deferred", "yes")
		piece := strings.Repeat("{{now}}", 100)
		for range 3 {
			s.write(piece)
			s.read(piece)
		}
		s.w.Close()
	})
}

// TestStreamIdleTimeout shows that the tunnel's own idle timeout holds for streams.
func TestStreamIdleTimeout(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		codes := make(chan int, 1)
		addr := newRawRelay(t, relayTLS(), func(c *rawConn) {
			if _, err := c.upgrade(""); err != nil {
				t.Error(err)
			}
			codes <- readClose(t, c.r)
			c.write(closeFrameOf(1001, false))
		})
		p := start(t, mountOn("wss://"+addr, "idle_timeout 50ms"))
		s := open(t, p, "/websocket", "")
		if code := readClose(t, s.r); code != 1001 {
			t.Errorf("the client is told %d", code)
		}
		s.write(closeFrameOf(1001, true))
		s.w.Close()
		if code := <-codes; code != 1001 {
			t.Errorf("the relay is told %d", code)
		}
		if closed := p.closed(t); closed["reason"] != "idle" || closed["closed_by"] != "proxy" {
			t.Errorf("the log says %v", closed)
		}
	})
}

// TestStreamRefusals has handshakes that become no WebSocket.
func TestStreamRefusals(t *testing.T) {
	overStreams(t, func(t *testing.T, open opener) {
		refusing := newRelay(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "not you", http.StatusForbidden) })
		silent := newRawRelay(t, relayTLS(), func(c *rawConn) { c.drain() })
		p := start(t, site{body: strings.Join([]string{
			directiveFor("/refusing", refusing.URL, ""),
			directiveFor("/dead", "wss://"+deadAddr(t), ""),
			directiveFor("/silent", "wss://"+silent, "handshake_timeout 100ms"),
		}, "\n")})
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
			s := open(t, p, test.target, "", "Origin: https://page.example", test.field)
			if test.status != http.StatusForbidden {
				wantRefusal(t, test.target, s.Response, test.status)
				continue
			}
			s.wantStatus(test.status)
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
