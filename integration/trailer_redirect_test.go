package integration_test

import (
	"strings"
	"testing"
)

// TestRedirectInTrailer has a relay that leads to the operator's own site in a trailer. It
// does not cross: a handler in front that holds the head back, such as encode, writes
// whatever is in the header by the time the response is over.
func TestRedirectInTrailer(t *testing.T) {
	relay := respondWith(t, "HTTP/1.1 307 Temporary Redirect\r\nTrailer: Location\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"0\r\nLocation: /account/delete\r\n\r\n", false)
	for _, front := range []string{"", "encode"} {
		overHTTP(t, func(t *testing.T, protocol string) {
			p := start(t, site{body: "route {\n" + front + "\n" + directive("/websocket", "wss://"+relay.Addr) + "\n}"})
			r := request(t, "POST", p.url("/websocket/trace"), strings.NewReader("{}"), "Accept-Encoding: gzip")
			response, _ := ask(t, p.client(t, protocol), r)
			wantField(t, response.Header, "Location", "")
			wantField(t, response.Trailer, "Location", "")
			p.stop(t)
		})
	}
}
