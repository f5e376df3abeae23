package integration_test

import (
	"net/http"
	"testing"
)

// TestStreamNotAccepted has relays that respond to a handshake with a 2xx, as web servers
// do that are no relay. On a stream that would say to the client that its WebSocket is
// open: it gets a 502. Over HTTP/1.1 nothing but a 101 says so, and the response passes.
func TestStreamNotAccepted(t *testing.T) {
	for _, status := range []string{"200 OK", "204 No Content", "299 Odd"} {
		overStreams(t, func(t *testing.T, protocol string) {
			relay := respondWith(t, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n", true)
			p := start(t, mount("wss://"+relay.Addr).over(protocol))
			s := p.open(t, protocol, target, "", "Origin: https://page.example")
			wantRefusal(t, status, s.Response, http.StatusBadGateway)
			if got := p.open(t, http1, target, "").StatusCode; got/100 != 2 {
				t.Errorf("%s over HTTP/1.1: status %d", status, got)
			}
			p.stop(t)
			if lines, _ := p.logs.matching(`"relay failed"`, `"stage":"status"`, relay.Addr); len(lines) == 0 {
				t.Error("the log does not have it")
			}
		})
	}
}
