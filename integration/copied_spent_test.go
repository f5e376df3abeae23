package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// TestSpentBodyBehindCopiedRequest has a relay read an upload of no announced length to its
// end and then break off. A fallback in an error route, which gets the original of a copied
// request, never takes what is left of the body for the whole of one.
func TestSpentBodyBehindCopiedRequest(t *testing.T) {
	overHTTP(t, func(t *testing.T, protocol string) {
		fallback := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); err == nil {
				fmt.Fprintf(w, "whole: %d", len(body))
			}
		})
		relay := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		})
		p := start(t, site{body: "route {\ntracing\n" + directive("/websocket", relay.URL) + "\n}\n" +
			"handle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"})
		body, w := io.Pipe()
		go func() {
			w.Write(make([]byte, 1000))
			w.Close()
		}()
		response := do(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), body))
		text, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusBadGateway {
			t.Errorf("status %d, %q", response.StatusCode, text)
		}
	})
}
