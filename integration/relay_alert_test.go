package integration_test

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRelayBreaksTLSDuringUpload has a relay that takes nothing more of an upload, sends
// what TLS has an alert for, and resets its connection. Whoever reads from the relay must
// not wait for whoever writes to it, nor the other way round: the client is told at once.
func TestRelayBreaksTLSDuringUpload(t *testing.T) {
	const record = "\x17\x03\x03\x00\x20not what any key has encrypted.."
	for name, test := range map[string]struct {
		response string
		status   int
	}{
		"before the response": {"", http.StatusBadGateway},
		"in the response":     {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			blocked := make(chan bool)
			addr := rawRelay(t, func(c *wstest.Conn) {
				c.ReadHead()
				c.WriteText(test.response)
				<-blocked
				io.WriteString(c.Raw(), record)
				time.Sleep(100 * time.Millisecond) // somebody has read it by then
				c.Reset()
			}).Addr
			p := start(t, mount("wss://"+addr, "handshake_timeout 20s"))
			c := p.dial(t)
			c.request("POST", "/websocket/trace", "Content-Length: 16000000")
			go func() {
				for piece := make([]byte, 64<<10); ; {
					if _, err := c.Write(piece); err != nil {
						return
					}
				}
			}()
			go func() {
				awaitJam(c)
				close(blocked)
			}()
			response := c.response("POST")
			c.wantStatus(response, test.status)
			if test.status == http.StatusOK {
				if body, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("the body is %q, %v", body, err)
				}
			}
			c.close()
		})
	}
}

// awaitJam waits until a client that writes no longer gets on.
func awaitJam(c *conn) {
	for before := int64(-1); c.Sent() != before; time.Sleep(time.Second / 2) {
		before = c.Sent()
	}
}
