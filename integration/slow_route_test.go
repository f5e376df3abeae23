package integration_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestSlowErrorRouteOfStalledUpload: an error route that takes longer than an abandoned body
// is read makes the response all the same, if it does not want the body.
func TestSlowErrorRouteOfStalledUpload(t *testing.T) {
	sorry := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(1500 * time.Millisecond):
			io.WriteString(w, "sorry")
		case <-r.Context().Done():
		}
	})
	reset := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.R.Peek(1)
		c.Reset()
	}).Addr
	s := mount("wss://" + reset)
	s.body += "\nhandle_errors {\nreverse_proxy " + sorry.URL + " {\nmethod GET\n" + transport("") + "\n}\n}"
	p := start(t, s)
	for _, body := range unfinished[:2] {
		t.Run(body[0], func(t *testing.T) {
			t.Parallel()
			c := p.dial(t)
			c.request("POST", "/websocket/trace", body[0])
			c.write(body[1])
			response := c.response("POST")
			text, err := io.ReadAll(response.Body)
			if response.StatusCode != http.StatusOK || string(text) != "sorry" || err != nil {
				t.Errorf("status %d, body %q (%v), want that of the error route", response.StatusCode, text, err)
			}
		})
	}
}
