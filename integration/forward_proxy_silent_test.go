package integration_test

import (
	"fmt"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestSilentForwardProxy has a forward proxy accept connections and say nothing, or no more
// when TLS begins. When the requests that wanted them have ended, they are closed: they would
// hold descriptors that no limit counts.
func TestSilentForwardProxy(t *testing.T) {
	for name, test := range map[string]struct{ scheme, says string }{
		"HTTP": {"http", ""}, "HTTP, before TLS": {"http", "HTTP/1.1 200 OK\r\n\r\n"}, "SOCKS": {"socks5", ""},
	} {
		for _, kind := range kinds {
			t.Run(name+", "+kind, func(t *testing.T) {
				begun, ended := make(chan struct{}, 4), make(chan error, 4)
				silent := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
					c.R.Peek(1)
					c.WriteText(test.says)
					begun <- struct{}{}
					_, err := c.ReadToEnd()
					ended <- err
				})
				p := start(t, mount("https://relay.example", transport(fmt.Sprintf("network_proxy url %s://%s", test.scheme, silent.Addr))))
				const clients = 3
				for range clients {
					c := p.dial(t)
					if kind == "WebSocket" {
						c.request("GET", target, wstest.HandshakeFields(wstest.SampleKey)...)
					} else {
						c.request("POST", target, "Content-Length: 0")
					}
					await(t, begun, "connection to the forward proxy")
					c.close()
				}
				for range clients {
					if err := await(t, ended, "end of a connection that nobody wants any more"); err != nil && !wstest.IsReset(err) {
						t.Error(err)
					}
				}
			})
		}
	}
}
