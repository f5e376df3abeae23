package integration_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestNoTrailerName has clients that announce a trailer whose name is none. It does not
// cross, and the rest does: neither the request nor the relay has failed.
func TestNoTrailerName(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL))
	const trailer = "Trailer: not a name"
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", trailer)
	c.write("2\r\n{}\r\n0\r\n\r\n")
	c.wantStatus(c.response("POST"), http.StatusOK)
	body := io.MultiReader(strings.NewReader("x")) // of unknown length
	response, _ := ask(t, p.client(t, http2x), request(t, "POST", p.url("/websocket/trace"), body, trailer))
	wantStatus(t, response, http.StatusOK)
	if lines, _ := p.logs.matching(`"relay failed"`, relay.Listener.Addr().String()); len(lines) > 0 {
		t.Errorf("the log has %s", lines)
	}
}

// TestTooLargeAfterResponse has a relay that responds early, and a client whose body then
// exceeds max_body_size. The response is broken off, and that is not the relay's fault.
func TestTooLargeAfterResponse(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.WriteText("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr, "max_body_size 64KiB"))
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
	c.write("2\r\n{}\r\n")
	response := c.response("POST")
	c.wantStatus(response, http.StatusOK)
	c.WriteText("20000\r\n" + strings.Repeat("x", 0x20000) + "\r\n")
	if body, err := io.ReadAll(response.Body); err == nil || string(body) != "ok" {
		t.Errorf("the body is %q, then %v", body, err)
	}
	if lines, _ := p.logs.matching(`"relay failed"`, addr); len(lines) > 0 {
		t.Errorf("the log has %s", lines)
	}
}
