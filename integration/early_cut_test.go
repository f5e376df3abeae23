package integration_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRelayBreaksOffDuringUpload has a relay that breaks off its response while an
// HTTP/1.1 client uploads, on a site with an access log. The client gets what there was
// of it, not a reset, and nothing touches the reader that the body still comes through
// (which the race detector would see).
func TestRelayBreaksOffDuringUpload(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.WriteText("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut")
		c.CloseWrite()
		c.ReadToEnd()
	}).Addr
	s := mount("wss://" + addr)
	s.body += "\nlog"
	p := start(t, s)
	for i := range 20 {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
		chunk := "2000\r\n" + strings.Repeat("x", 0x2000) + "\r\n"
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for {
				if _, err := io.WriteString(c.Conn, chunk); err != nil {
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		}()
		response, err := http.ReadResponse(c.R, nil)
		if err != nil {
			t.Errorf("round %d: %v", i, err)
		} else if body, err := io.ReadAll(response.Body); string(body) != "cut" || err != io.ErrUnexpectedEOF {
			t.Errorf("round %d: the client got %q, then %v", i, body, err)
		}
		c.close()
		<-sent
	}
}
