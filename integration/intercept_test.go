package integration_test

import (
	"io"
	"net/http"
	"testing"
)

// TestInterceptFallbackGetsNoPart has intercept ask another server in place of a relay that
// has responded with an error. The body of the upload is gone by then, read by the relay or
// discarded: the other server never takes what is left of it for the whole of one.
func TestInterceptFallbackGetsNoPart(t *testing.T) {
	for name, refuse := range map[string]http.HandlerFunc{
		"read whole": func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) },
		"not read":   func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", "close") },
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				whole := make(chan int, 1)
				other := serve(t, func(_ http.ResponseWriter, r *http.Request) {
					if body, err := io.ReadAll(r.Body); err == nil {
						whole <- len(body)
					}
				})
				relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
					refuse(w, r)
					w.WriteHeader(http.StatusServiceUnavailable)
					flush(w)
				})
				intercept := "intercept {\n@failed status 503\nhandle_response @failed {\nreverse_proxy " +
					other.URL + " {\n" + transport("") + "\n}\n}\n}\n"
				p := start(t, site{body: "route {\n" + intercept + directive("/websocket", relay.URL) + "\n}"})
				body, w := io.Pipe()
				go func() {
					for range 20 { // in pieces, so that the relay responds in between
						w.Write(make([]byte, 100_000))
					}
					w.Close()
				}()
				response := do(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), body))
				wantStatus(t, response, http.StatusBadGateway)
				select {
				case n := <-whole:
					t.Errorf("the other server has taken %d bytes for the whole body", n)
				default:
				}
			})
		})
	}
}
