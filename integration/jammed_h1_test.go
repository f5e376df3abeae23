package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestJammedHTTP1Client has a client over HTTP/1.1 that takes nothing of a 101 that is
// larger than all sockets. Its handshake holds no slot for longer than a client has.
func TestJammedHTTP1Client(t *testing.T) {
	takesLong(t)
	var fields []string
	for range 100 {
		fields = append(fields, "X-Large: "+strings.Repeat("x", 90_000))
	}
	relay := rawRelay(t, func(c *wstest.Conn) {
		c.AcceptHandshakeWith("", fields...)
		c.ReadToEnd()
	})
	s := mount(https(relay), "max_tunnels 1")
	a := withAdmin(t, &s)
	p := start(t, s)
	c := p.dial(t)
	c.request("GET", "/websocket", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
	awaitTrue(t, "handshake", func() bool { return inStacks("(*roundTrip).openConn") > 0 })
	awaitTrue(t, "end of the handshake", func() bool { return a.status(t).Handshakes == 0 })
}

// TestJammedHTTP1Greeting has a client over HTTP/1.1 that takes nothing of a greeting, whose
// head the site makes larger than all sockets. It is closed when it has had its time.
func TestJammedHTTP1Greeting(t *testing.T) {
	takesLong(t)
	s := mount("wss://relay.example", "api_keys good", "refuse_with greeting")
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 900_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.body = "header {\n" + strings.Repeat("+X-Large {file."+file+"}\n", 12) + "}\n" + s.body
	p := start(t, s)
	c := p.dial(t)
	c.request("GET", "/websocket?apiKey=bad", wstest.HandshakeFields(wstest.SampleKey)...)
	awaitTrue(t, "greeting", func() bool { return inStacks("(*roundTrip).greetConn") > 0 })
	awaitTrue(t, "end of the greeting", func() bool { return inStacks("(*roundTrip).greetConn") == 0 })
}
