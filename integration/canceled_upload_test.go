package integration_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// TestCanceledUploadIsLogged has clients over HTTP/1.1 that close their connection in the
// middle of an upload to a relay over HTTP/2. By the time that the access log counts what
// has been read, nobody reads any more; the race detector sees to that.
func TestCanceledUploadIsLogged(t *testing.T) {
	relay := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}, withHTTP2)
	s := mount(relay.URL, transport("versions 2"))
	s.body = "log\n" + s.body
	p := start(t, s)
	client := p.client(t, http1)
	const n = 400
	for range n / 20 {
		var uploads sync.WaitGroup
		for range 20 {
			uploads.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				body, w := io.Pipe()
				r, err := http.NewRequestWithContext(ctx, "POST", p.url("/websocket/trace"), body)
				if err != nil {
					t.Error(err)
				}
				go func() {
					io.WriteString(w, strings.Repeat("x", 200_000))
					cancel()
					w.CloseWithError(context.Canceled)
				}()
				if response, err := client.Do(r); err == nil {
					response.Body.Close()
				}
			})
		}
		uploads.Wait()
	}
	p.logs.wait(t, n, "handled request")
}
