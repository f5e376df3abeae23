package integration_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// TestReloadDuringHTTP3Upload has a configuration replaced while a request to a relay over
// HTTP/3 is under way. It goes on, in both directions, and its QUIC connection is closed when
// it is over.
func TestReloadDuringHTTP3Upload(t *testing.T) {
	takesLong(t)
	connections, begun := make(chan *quic.Conn, 4), make(chan bool, 1)
	upstream := serveHTTP3(t, &http3.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.CopyN(io.Discard, r.Body, 1)
			flush(w)
			begun <- true
			m, endErr := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n+m, err, endErr)
		}),
		ConnContext: func(ctx context.Context, conn *quic.Conn) context.Context {
			connections <- conn
			return ctx
		},
	})
	var old []*quic.Conn
	overHTTP(t, func(t *testing.T, protocol string) {
		s := mount(upstream, transport("versions 3"))
		p := start(t, s)

		body, w := io.Pipe()
		defer w.Close()
		go w.Write(make([]byte, 1000))
		response := do(t, p.client(t, protocol), request(t, "POST", p.url("/websocket/trace"), body))
		await(t, begun, "upload")
		s.body += "\nheader /other X-Other other"
		p.reload(t, s)
		go func() {
			w.Write(make([]byte, 200_000))
			w.Close()
		}()
		text, err := io.ReadAll(response.Body)
		if want := "201000 <nil> <nil>"; err != nil || string(text) != want {
			t.Errorf("status %d, %q, %v; want %q", response.StatusCode, text, err, want)
		}
		old = append(old, <-connections)
	})
	for _, conn := range old { // at the same time: it is kept for a while
		await(t, conn.Context().Done(), "end of the old configuration's connection")
	}
}
