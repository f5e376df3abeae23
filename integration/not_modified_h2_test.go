package integration_test

import (
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestNotModifiedOverHTTP2 has a relay over HTTP/2 whose 304 tells the length of what the
// client has (RFC 9110, section 8.6). It is whole.
func TestNotModifiedOverHTTP2(t *testing.T) {
	addr := wstest.NewRelay(t, relayTLSWithHTTP2(), func(c *wstest.Conn) {
		r, err := newH2Relay(c)
		if err != nil {
			return
		}
		for stream := uint32(1); r.await(http2.FrameHeaders) == nil; stream += 2 {
			r.respond(stream, true, ":status", "304", "content-length", "100", "etag", `"1"`)
		}
	}).Addr
	p := start(t, mount("wss://"+addr, transport("versions 2")))
	c := p.dial(t)
	for range 2 { // over one connection
		c.request("GET", "/websocket/get-qualityrtc-config", `If-None-Match: "1"`)
		c.wantStatus(c.response("GET"), http.StatusNotModified)
	}
	if lines, _ := p.logs.matching(`"relay failed"`, addr); len(lines) > 0 {
		t.Errorf("the log has %s", lines)
	}
}
