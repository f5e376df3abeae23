package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// TestConnectionsInTheInstantOfAReload has clients connect over HTTP/2 while a configuration
// is replaced. Some of their connections lead to the old one, and net/http does not tell
// them to leave. What they ask for gets to the relay all the same, also over HTTP/3, and it
// is not for long that they are served by the old one.
func TestConnectionsInTheInstantOfAReload(t *testing.T) {
	upstream := serveHTTP3(t, &http3.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }),
	})
	s := mount(upstream, transport("versions 3"))
	mounted := s.body
	p := start(t, s)
	const clients = 20
	var finish sync.WaitGroup
	for i := range 5 {
		version := fmt.Sprint(i)
		s.body = mounted + "\nheader X-Version " + version
		loaded := make(chan bool)
		for j := range clients {
			c := p.client(t, http2x)
			finish.Go(func() {
				time.Sleep(time.Duration(j) * time.Millisecond)
				ask := func() (seen string, err error) {
					response, err := c.Post(p.url("/websocket/trace"), "text/plain", strings.NewReader("{}"))
					if err != nil {
						return "", err
					}
					response.Body.Close()
					if response.StatusCode != http.StatusOK {
						t.Errorf("status %d", response.StatusCode)
					}
					return response.Header.Get("X-Version"), nil
				}
				ask()
				<-loaded
				// Connections that the old listener has not accepted are reset.
				for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
					if seen, err := ask(); err == nil && seen >= version {
						return
					} else if time.Now().After(deadline) {
						t.Errorf("still served by configuration %q, %v; want %s", seen, err, version)
						return
					}
				}
			})
		}
		err := load(s, p.port)
		close(loaded)
		if err != nil {
			t.Fatal(err)
		}
		finish.Wait()
	}
}
