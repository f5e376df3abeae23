package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestSecretsAreNowhere goes through what can become of a request, and looks for the
// key and the token in all that operators see. The relays repeat both wherever they
// can.
func TestSecretsAreNowhere(t *testing.T) {
	const token = "t0ken-0f-the-client"
	both := "apiKey=" + secret + "&token=" + token
	repeat := func(c *wstest.Conn, status string) {
		if _, err := c.ReadRequest(); err == nil {
			c.WriteResponse(status+" "+both, both, "X-Repeated: "+both)
		}
	}
	up := newServer(t)
	refuses := rawRelay(t, func(c *wstest.Conn) { repeat(c, "403") })
	garbage := rawRelay(t, func(c *wstest.Conn) {
		c.ReadRequest()
		c.WriteText(both + "\r\n\r\n")
	})
	badHandshake := rawRelay(t, func(c *wstest.Conn) {
		c.ReadRequest()
		c.WriteResponseHead("101 "+both, "Connection: Upgrade", "Upgrade: "+both, "Sec-WebSocket-Accept: "+both)
	})
	breaksOff := rawRelay(t, func(c *wstest.Conn) {
		c.ReadRequest()
		c.WriteResponseHead("200 OK", "Content-Length: 1000")
		c.WriteText(both)
	})
	hangs := rawRelay(t, func(c *wstest.Conn) { io.Copy(io.Discard, c.R) })
	relays := map[string]string{
		"/up": up.upstream, "/down": "wss://" + wstest.DeadAddr(t), "/refuses": https(refuses), "/garbage": https(garbage),
		"/handshake": https(badHandshake), "/breaks": https(breaksOff), "/hangs": https(hangs),
	}
	s := site{body: scraped}
	for mount, relay := range relays {
		s.body += "\n" + directive(mount, relay, "handshake_timeout 200ms", "max_body_size 64KiB")
	}
	a := withAdmin(t, &s)
	p := start(t, s)
	var seen strings.Builder
	look := func() {
		_, page := ask(t, p.client(t, http1), request(t, "GET", p.url("/metrics"), nil))
		seen.WriteString(page)
		for _, path := range []string{adminapi.PathStatus, adminapi.PathTunnels} {
			status, text := a.call(t, "GET", path, "")
			if status != http.StatusOK {
				t.Errorf("%s: %d %s", path, status, text)
			}
			seen.WriteString(text)
		}
	}
	for mount := range relays {
		target := mount + "?" + both + "&sessionId=s"
		c := p.open(t, http1, target, "")
		look()
		if c.StatusCode == http.StatusSwitchingProtocols {
			c.close(t, 1000)
		}
		for _, body := range []string{"{}", strings.Repeat("x", 65<<10)} {
			if response, err := p.client(t, http1).Do(request(t, "POST", p.url(target), strings.NewReader(body))); err == nil {
				response.Body.Close()
			}
		}
	}
	look()
	p.logs.awaitLines(t, 1, `"tunnel closed"`, up.upstream)
	for _, stage := range []string{"connect", "status", "invalid", "timeout"} {
		if page := seen.String(); !strings.Contains(page, fmt.Sprintf("stage=%q", stage)) || !strings.Contains(page, fmt.Sprintf(`"stage":%q`, stage)) {
			t.Errorf("nothing has failed at %s", stage)
		}
		p.logs.awaitLines(t, 1, `"relay failed"`, fmt.Sprintf(`"stage":%q`, stage))
	}
	logged, _ := p.logs.matching("")
	for _, word := range []string{secret, token, "0f-the-client"} {
		if strings.Contains(seen.String(), word) {
			t.Errorf("%s is in the metrics, or in a response of the admin API", word)
		}
		for _, line := range logged {
			if strings.Contains(line, word) {
				t.Errorf("%s is in %s", word, line)
			}
		}
	}
}

// TestSecretsInSessionID has clients whose proxyUrl ends in ?sessionId=x: what the SDK
// appends, its key first, is a part of that parameter.
func TestSecretsInSessionID(t *testing.T) {
	up := newServer(t)
	s := mount(up.upstream)
	a := withAdmin(t, &s)
	p := start(t, s)
	for _, target := range []string{
		"/websocket?sessionId=x?apiKey=" + secret + "&sessionId=y",
		"/websocket?sessionId=x%3FapiKey%3D" + secret,
		"/websocket?sessionId=x" + strings.Repeat("%E2%82%AC", 60) + "%3FapiKey=" + secret, // cut within a character
	} {
		c := p.open(t, http1, target, "")
		wantStatus(t, c.Response, http.StatusSwitchingProtocols)
		awaitTrue(t, "tunnel", func() bool { return len(a.tunnels(t, "").Tunnels) == 1 })
		id := a.tunnels(t, "").Tunnels[0].SessionID
		if !strings.HasPrefix(id, "x") || strings.Contains(id, secret) || strings.Contains(id, "\ufffd") {
			t.Errorf("the session is %q", id)
		}
		if found := a.tunnels(t, url.Values{"session_id": {id}}.Encode()).Tunnels; len(found) != 1 {
			t.Errorf("%q finds %d tunnels", id, len(found))
		}
		c.close(t, 1000)
		awaitTrue(t, "end of the tunnel", func() bool { return len(a.tunnels(t, "").Tunnels) == 0 })
	}
}
