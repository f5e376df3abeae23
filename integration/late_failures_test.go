package integration_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestFallbackAfterLateTLSFailure has a relay whose TLS fails when it has the whole request:
// a fallback must not get the body again.
func TestFallbackAfterLateTLSFailure(t *testing.T) {
	for way, options := range transportWays() {
		asked, got := make(chan bool, 1), make(chan string, 1)
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			asked <- true
			c.Raw().Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)) // a record that cannot be decrypted
			c.ReadToEnd()
		}).Addr
		fallback := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); err == nil {
				got <- string(body)
			}
		})
		s := mount("wss://"+addr, options)
		s.body += "\nhandle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"
		p := start(t, s)
		c := p.dial(t)
		c.wantStatus(c.try("POST", "/websocket/trace"), http.StatusBadGateway)
		await(t, asked, "request to the relay")
		select {
		case body := <-got:
			t.Errorf("%s: the fallback gets %q, which the relay has got already", way, body)
		default:
		}
		c.close()
		p.stop(t)
	}
}

// TestEndlessInterimResponses has a relay that sends 1xx responses without end, to a request
// that is complete and to one whose body the client takes its time for.
func TestEndlessInterimResponses(t *testing.T) {
	interim := strings.Repeat("HTTP/1.1 103 Early Hints\r\nX-Filler: "+strings.Repeat("x", 1000)+"\r\n\r\n", 100)
	addr := rawRelay(t, func(c *wstest.Conn) {
		for c.WriteText(interim) == nil && c.Sent() < 64<<20 {
		}
	}).Addr
	p := start(t, mount("wss://"+addr, "handshake_timeout 1h"))
	for _, body := range []string{"", "1\r\nx\r\n", "1\r\nx\r\n0\r\n\r\n"} {
		fields := []string{"Transfer-Encoding: chunked"}
		if body == "" {
			fields = nil
		}
		c := p.dial(t)
		c.request("POST", "/websocket/trace", fields...)
		c.write(body)
		response := c.response("POST")
		for response.StatusCode == http.StatusEarlyHints {
			response = c.response("POST")
		}
		c.wantStatus(response, http.StatusBadGateway)
		if n := c.Received(); n > 4<<20 {
			t.Errorf("%q: the client got %d bytes of 1xx responses", body, n)
		}
		c.close()
	}
}
