package integration_test

import (
	"io"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStreamLastWordsThenReset has a relay that says something, ends with a Close frame
// and resets its connection, as one does that closes with input unread. A client that
// reads all the time gets what the proxy has taken, or the log says that it was cut.
func TestStreamLastWordsThenReset(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		lastWords := wire(false, binaryMessage(100_000), wstest.CloseFrame(1000))
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			if _, err := c.ReadExactly(1); err != nil {
				t.Error(err)
			}
			c.WriteText(lastWords)
			c.Reset()
		}).Addr
		p := start(t, mount("wss://"+addr, "").over(protocol))
		const tries = 20
		lost := 0
		for range tries {
			s := p.open(t, protocol, "/websocket", "")
			s.write(t, "!")
			got, err := io.ReadAll(s.r)
			if err == nil {
				t.Error("the reset looks like an orderly end")
			}
			if len(got) < len(lastWords) {
				lost++
				t.Logf("the client got %d of %d bytes, then %v", len(got), len(lastWords), err)
			}
		}
		if lost > 0 {
			t.Errorf("%d of %d clients got less than all; the log says %v", lost, tries, p.closed(t))
		}
	})
}
