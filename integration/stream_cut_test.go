package integration_test

import (
	"io"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStreamWithoutRoom has a client over HTTP/2 that grants its stream no room, and
// resets it when there is something for it. The log says that nothing has arrived.
func TestStreamWithoutRoom(t *testing.T) {
	message := wire(false, binaryMessage(100))
	addr := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith(message); err != nil {
			t.Error(err)
		}
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr))
	c := p.bareHTTP2(t)
	c.send(func(f *http2.Framer) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	})
	s := c.ask()
	await(t, s.status, "response")
	go io.Copy(io.Discard, s.r)
	awaitTrue(t, "wait for room", func() bool { return inStacks("writeDataFromHandler(") > 0 })
	s.reset()
	closed := p.closed(t)
	if closed["bytes_to_client"] != 0.0 || closed["bytes_cut_to_client"] != float64(len(message)) {
		t.Errorf("of %d bytes none has arrived; the log says %v", len(message), closed)
	}
}
