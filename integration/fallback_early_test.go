package integration_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestFallbackEarly has a fallback that responds before it has read a small body. Its
// transport closes the body while it still reads it, as http.RoundTripper allows: over
// HTTP/2 the race detector sees both touch http1.Body.
func TestFallbackEarly(t *testing.T) {
	relayProtocols(t, func(t *testing.T, options ...func(*httptest.Server)) {
		fallback := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }, options...)
		s := mount("wss://" + nobody(t))
		s.body += "\nhandle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"
		p := start(t, s)
		client := p.client(t, http1)
		for range 150 {
			response, err := client.Do(request(t, "POST", p.url("/websocket/trace"), bytes.NewReader(make([]byte, 64<<10))))
			if err != nil {
				t.Error(err)
				continue
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
	})
}
