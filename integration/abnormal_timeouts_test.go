package integration_test

import (
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestAbnormalEndWithTimeouts has a client that resets its connection, which must look
// like no orderly end to the relay, whichever options the transport has.
func TestAbnormalEndWithTimeouts(t *testing.T) {
	for _, option := range []string{"", "write_timeout 1m", "read_timeout 1m"} {
		t.Run(option, func(t *testing.T) {
			ended := make(chan error, 1)
			relay := rawRelay(t, func(c *wstest.Conn) {
				if _, err := c.AcceptHandshakeWith(wire(false, wstest.Message("hello"))); err != nil {
					t.Error(err)
				}
				_, err := c.ReadToEnd()
				ended <- err
			})
			p := start(t, mount("wss://"+relay.Addr, transport(option)))
			orderly := 0
			for range 20 {
				s := p.open(t, http1, "/websocket", "")
				expect(t, s.r, wire(false, wstest.Message("hello")))
				s.reset()
				if err := await(t, ended, "end"); err == nil {
					orderly++
				}
			}
			if orderly > 0 {
				t.Errorf("%d of 20 resets look like an orderly end to the relay", orderly)
			}
		})
	}
}
