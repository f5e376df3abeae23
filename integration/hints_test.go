package integration_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const oneHint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"

// TestHintsBesideContinue has a relay send 103s around its 100, for a client that waits for
// one. net/http writes its own 100 when the body is read, and takes no lock for other 1xx
// responses: both may not write at the same time.
func TestHintsBesideContinue(t *testing.T) {
	for _, count := range []int{1, 500} {
		hints := strings.Repeat(oneHint, count)
		relay := rawRelay(t, func(c *wstest.Conn) {
			if _, err := http.ReadRequest(c.R); err != nil {
				return
			}
			c.WriteText(hints + "HTTP/1.1 100 Continue\r\n\r\n" + hints)
			c.ReadExactly(len("1\r\nx\r\n0\r\n\r\n"))
			c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			c.ReadToEnd()
		})
		for _, options := range []string{"", "expect_continue_timeout 10s"} {
			t.Run(fmt.Sprintf("%d %s", count, options), func(t *testing.T) {
				p := start(t, mount(https(relay), transport(options)))
				for range 20 {
					testContinue(t, p.dial(t), 2*count)
				}
			})
		}
	}
}

// testContinue uploads by c when it is told to, and counts what comes before the response.
func testContinue(t *testing.T, c *conn, hints int) {
	t.Helper()
	defer c.close()
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", "Expect: 100-continue")
	got := make(map[int]int)
	for {
		response := c.response("POST")
		if response.StatusCode >= http.StatusOK {
			c.wantStatus(response, http.StatusOK)
			break
		}
		got[response.StatusCode]++
		switch response.StatusCode {
		case http.StatusContinue:
			c.write("1\r\nx\r\n0\r\n\r\n")
		case http.StatusEarlyHints:
			wantLine(t, "103", response.Header, "Link", "</a.css>")
		}
	}
	if got[http.StatusContinue] != 1 || got[http.StatusEarlyHints] != hints {
		t.Errorf("1xx responses: %v, want one 100 and %d times 103", got, hints)
	}
}

// TestHintsWhileBodyTooLarge has a relay send 103s while the client sends more than
// request_body allows. net/http then sets a field of the response where the body is read, so
// no 1xx may change the same header meanwhile: Go ends a process in which two goroutines
// write to a map. (Caddy's idle timeouts would keep net/http from it.)
func TestHintsWhileBodyTooLarge(t *testing.T) {
	relay := rawRelay(t, func(c *wstest.Conn) {
		if _, err := http.ReadRequest(c.R); err != nil {
			return
		}
		for range 1000 {
			if c.WriteText(oneHint) != nil {
				return
			}
		}
		c.ReadToEnd()
	})
	s := mount(https(relay))
	s.body = "request_body {\nmax_size 10\n}\n" + s.body
	s.server = "timeouts {\nread_body_idle -1s\nwrite_idle -1s\n}"
	p := start(t, s)
	for range 20 {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
		c.write("1\r\nx\r\n")
		c.write("b\r\nxxxxxxxxxxx\r\n0\r\n\r\n")
		response := c.response("POST")
		for response.StatusCode == http.StatusEarlyHints {
			response = c.response("POST")
		}
		c.wantStatus(response, http.StatusRequestEntityTooLarge)
		c.close()
	}
}

// TestHintsAfterUpload has a relay that sends a 103 before the upload is over. The client
// gets it when that is over, and not only with the response.
func TestHintsAfterUpload(t *testing.T) {
	hinted, got := make(chan struct{}), make(chan struct{})
	relay := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.ReadHead(); err != nil {
			return
		}
		c.WriteText(oneHint)
		close(hinted)
		<-got
		c.WriteResponse("200 OK", "", "Connection: close")
		c.ReadToEnd()
	})
	p := start(t, mount(https(relay)))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
	c.write("1\r\nx\r\n")
	await(t, hinted, "103 of the relay")
	c.write("0\r\n\r\n")
	c.wantStatus(c.response("POST"), http.StatusEarlyHints)
	close(got)
	c.wantStatus(c.response("POST"), http.StatusOK)
}

// TestHintsThatWaitAreBounded has a client that takes nothing from its connection, and a
// relay that sends short 103s until it is stopped. What waits for the client takes no more
// memory than 1xx responses may for a request, 1 MiB, however short they are.
func TestHintsThatWaitAreBounded(t *testing.T) {
	const requests, bound = 4, 2 << 20
	full, given, stop := make(chan struct{}), make(chan struct{}, requests), make(chan struct{})
	hints := strings.Repeat("HTTP/1.1 103 \r\nA:\r\n\r\n", 1000)
	relay := rawRelay(t, func(c *wstest.Conn) {
		r, err := http.ReadRequest(c.R)
		if err != nil {
			return
		}
		if r.URL.Path == "/flood" {
			c.WriteResponseHead("200 OK", "Connection: close")
			fill(c, make([]byte, 64<<20))
			close(full)
			<-stop
			return
		}
		for c.WriteText(hints) == nil {
		}
		given <- struct{}{}
	})
	defer close(stop)
	p := start(t, mount(https(relay)))
	j := newJammedBy(t, p, full)
	before := memory()
	for i := range requests {
		j.upload(uint32(3+2*i), "/websocket/hint")
	}
	for range requests {
		await(t, given, "end of the connection to the relay")
	}
	if grown := (memory() - before) / requests; grown > bound {
		t.Errorf("%d KiB wait for each request, want %d at the most", grown>>10, bound>>10)
	}
}

// TestStalledClientGetsHints has a client over HTTP/1.1 that takes nothing, not even the
// 1xx responses. It is given up in time, as where it does not take a final response: by
// Caddy's write_idle.
func TestStalledClientGetsHints(t *testing.T) {
	hints := strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <"+strings.Repeat("a", 9000)+">\r\n\r\n", 100)
	addr := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.ReadHead(); err == nil {
			c.WriteText(hints)
			c.WriteResponse("200 OK", "", "Connection: close")
		}
	}).Addr
	s := mount("wss://" + addr)
	s.server = "timeouts {\nwrite_idle 200ms\n}"
	s.plain = true // crypto/tls takes 5 s to close what is not read
	p := start(t, s)
	c := p.dial(t)
	c.Raw().(*net.TCPConn).SetReadBuffer(4 << 10)
	for range 12 { // more than the sockets take
		c.request("GET", "/websocket/trace")
	}
	served := func() bool { return inStacks("net/http.(*conn).serve(") > 0 }
	awaitTrue(t, "connection", served)
	awaitTrue(t, "end of the connection", func() bool { return !served() })
}

// TestHintCutOverHTTP3 has a client over HTTP/3 that does not take all of a 103 before
// write_idle is over. Its stream ends with a reset: the response would follow a part of a
// frame.
func TestHintCutOverHTTP3(t *testing.T) {
	const window = 20_000 // quic-go's flow control
	cut := make(chan struct{})
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.WriteText("HTTP/1.1 103 Early Hints\r\nX-Long: " + strings.Repeat("a", 100_000) + "\r\n\r\n")
		<-cut
		c.WriteResponse("200 OK", "hello")
		c.ReadToEnd()
	}).Addr
	s := mount("wss://" + addr).over(http3x)
	s.server = "timeouts {\nwrite_idle 200ms\n}"
	p := start(t, s)
	p.settleQUIC(t)
	conn, err := quic.DialAddr(t.Context(), p.addr, http3.ConfigureTLSConfig(authority.ClientConfig("localhost")),
		&quic.Config{InitialStreamReceiveWindow: window, MaxStreamReceiveWindow: window})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	stream, err := new(http3.Transport).NewClientConn(conn).OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendRequestHeader(request(t, "GET", "https://localhost/websocket/x", nil)); err != nil {
		t.Fatal(err)
	}
	writing := func() bool { return inStacks("(*roundTrip).writeInterim") > 0 }
	awaitTrue(t, "1xx that waits for the client", writing)
	awaitTrue(t, "end of the time", func() bool { return !writing() })
	close(cut)
	stream.SetReadDeadline(time.Now().Add(patience))
	response, err := stream.ReadResponse()
	var reset *quic.StreamError
	if !errors.As(err, &reset) {
		t.Errorf("response %v, error %v, want a reset", response, err)
	}
}
