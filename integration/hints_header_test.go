package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"testing"
)

// TestResetWhileHintsGoOut has clients over HTTP/2 that reset their streams while 1xx
// responses go out, behind a handler that removes Content-Length. net/http may still be
// reading the header of a 1xx response then; whoever wrote to it would end the process.
// The race detector sees it.
func TestResetWhileHintsGoOut(t *testing.T) {
	relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 50 {
			w.Header().Set(fmt.Sprintf("X-%d", i), "x")
		}
		for range 20 {
			w.WriteHeader(http.StatusEarlyHints)
		}
	})
	p := start(t, site{body: "route {\nheader -Content-Length\n" + directive("/websocket", relay.URL) + "\n}"})
	client := p.client(t, http2x)
	var clients sync.WaitGroup
	for n := range 8 {
		clients.Go(func() {
			for range 10 {
				left := n // of the 1xx responses until the reset
				ctx, reset := context.WithCancel(t.Context())
				r := request(t, "GET", p.url("/websocket/trace"), nil)
				response, err := client.Do(r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
					Got1xxResponse: func(int, textproto.MIMEHeader) error {
						if left--; left < 0 {
							reset()
						}
						return nil
					},
				})))
				if err == nil {
					response.Body.Close()
				}
				reset()
			}
		})
	}
	clients.Wait()
}
