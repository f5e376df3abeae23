package integration_test

import (
	"net/http"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestJammedClientRefused has a client over HTTP/2 that takes nothing from its connection,
// and a relay that refuses its WebSocket. The handshake is over all the same, and holds no
// slot for as long as the client likes.
func TestJammedClientRefused(t *testing.T) {
	full := make(chan struct{})
	relay := rawRelay(t, func(c *wstest.Conn) {
		r, err := c.ReadRequest()
		if err != nil {
			return
		}
		switch r.URL.Path {
		case "/flood":
			body := make([]byte, 64<<20)
			c.WriteResponseHead("200 OK", "Content-Length: 67108864")
			fill(c, body)
			close(full)
			c.ReadToEnd()
		case "/refused":
			c.WriteResponse("403 Forbidden", "no", "Connection: close")
		default:
			c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
			c.ReadToEnd()
		}
	})
	s := mount(https(relay), "max_tunnels 1")
	a := withAdmin(t, &s)
	p := start(t, s)
	j := newJammedBy(t, p, full)
	j.handshake(3, "/websocket/refused")
	p.logs.await(t, "the relay refused a handshake")
	awaitTrue(t, "response that waits for the client", func() bool { return inStacks("(*roundTrip).writeResponse(") == 2 })
	if status := a.status(t); status.Handshakes != 0 || status.Tunnels != 0 {
		t.Errorf("%+v", status)
	}
	p.openSoon(t, http1, "/websocket/wait", http.StatusSwitchingProtocols).reset()
}
