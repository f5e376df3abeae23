package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestTrailersOfGivenUpBody has the rest of a body and its trailers come just when an error
// route takes over. net/http puts trailers into the request when the body ends; an error
// route that copied them in that moment would end the process.
func TestTrailersOfGivenUpBody(t *testing.T) {
	reset := make(chan bool)
	addr := rawRelay(t, func(c *wstest.Conn) {
		c.ReadHead()
		c.R.Peek(1)
		c.Reset()
		reset <- true
	}).Addr
	sorry := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "sorry") })
	s := mount("wss://" + addr)
	s.body += "\nhandle_errors {\nreverse_proxy " + sorry.URL + " {\nmethod GET\n" + transport("") + "\n}\n}"
	p := start(t, s)
	var names, lines []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("X-%d", i))
		lines = append(lines, fmt.Sprintf("X-%d:1\r\n", i))
	}
	for range 20 {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", "Trailer: "+strings.Join(names, ","))
		c.write("1\r\nx\r\n")
		await(t, reset, "reset")
		c.write("0\r\n" + strings.Join(lines, "") + "\r\n")
		c.wantStatus(c.response("POST"), http.StatusOK)
		c.close()
	}
}
