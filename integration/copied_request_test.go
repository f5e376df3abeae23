package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestFallbackBehindCopiedRequest: some handlers pass a copy of the request on, and error
// routes get the original. A fallback there has the whole body or an error, as behind any
// other handler.
func TestFallbackBehindCopiedRequest(t *testing.T) {
	fallback := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			fmt.Fprintf(w, "whole: %s", body)
		}
	})
	allow := serve(t, func(http.ResponseWriter, *http.Request) {})
	const small, begin, end = "small", "5\r\nfirst\r\n", "6\r\nsecond\r\n5\r\nthird\r\n0\r\n\r\n"
	for name, front := range map[string]string{
		"none":         "",
		"tracing":      "tracing",
		"forward_auth": "forward_auth " + allow.URL + " {\nuri /\n" + transport("") + "\n}",
	} {
		for _, test := range []struct {
			what, relay, option, field string
			body                       []string
			want                       string // empty where the fallback must not take anything for the whole body
		}{
			{"dead relay", "wss://" + wstest.DeadAddr(t), "", "Content-Length: 5", []string{small}, "whole: small"},
			{"too large", newRelay(t, nil).URL, "max_body_size 10", "Transfer-Encoding: chunked", []string{begin, end}, ""},
		} {
			s := site{body: "route {\n" + front + "\n" + directive("/websocket", test.relay, test.option) + "\n}\n" +
				"handle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"}
			p := start(t, s)
			c := p.dial(t)
			c.request("POST", "/websocket/trace", test.field)
			for _, piece := range test.body {
				c.write(piece)
			}
			response := c.response("POST")
			text, _ := io.ReadAll(response.Body)
			if string(text) != test.want {
				t.Errorf("%s, %s: status %d, the fallback says %q, want %q", name, test.what, response.StatusCode, text, test.want)
			}
			c.close()
			p.stop(t)
		}
	}
}
