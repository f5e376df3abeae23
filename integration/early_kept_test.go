package integration_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRefusalDuringUpload: a client that is uploading gets the response, whoever made it,
// and not a reset.
func TestRefusalDuringUpload(t *testing.T) {
	relay := newRelay(t, nil)
	early := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.WriteResponse("429 Too Many Requests", "later", "Connection: close")
		c.CloseWrite()
		c.ReadToEnd()
	}).Addr
	handled := mount(relay.URL, "origins https://app.example")
	handled.body += "\nhandle_errors {\nrespond sorry\n}"
	upload := make([]byte, 4<<20)
	for name, test := range map[string]struct {
		site site
		want int
	}{
		"origin":        {mount(relay.URL, "origins https://app.example"), http.StatusForbidden},
		"handle_errors": {handled, http.StatusForbidden},
		"max_body_size": {mount(relay.URL, "max_body_size 1MiB"), http.StatusRequestEntityTooLarge},
		"unreachable":   {mount("wss://" + wstest.DeadAddr(t)), http.StatusBadGateway},
		"relay":         {mount("wss://" + early), http.StatusTooManyRequests},
	} {
		p := start(t, test.site)
		client := p.client(t, http1)
		for range 20 {
			r := request(t, "POST", p.url("/websocket/trace"), bytes.NewReader(upload), "Origin: https://page.example")
			response, err := client.Do(r)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			response.Body.Close()
			if response.StatusCode != test.want {
				t.Errorf("%s: status %d, want %d", name, response.StatusCode, test.want)
			}
		}
		p.stop(t)
	}
}
