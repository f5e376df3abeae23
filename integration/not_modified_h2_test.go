package integration_test

import (
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestNotModifiedOverHTTP2 has a relay over HTTP/2 whose 304 tells the length of what the
// client has (RFC 9110, section 8.6). It is whole.
func TestNotModifiedOverHTTP2(t *testing.T) {
	addr := rawRelayWith(t, relayTLSWithHTTP2(), func(c *wstest.Conn) {
		r, err := newH2Relay(c)
		if err != nil {
			return
		}
		for stream := uint32(1); r.await(http2.FrameHeaders) == nil; stream += 2 {
			r.respond(stream, true, ":status", "304", "content-length", "100", "etag", `"1"`)
		}
	}).Addr
	overHTTP(t, func(t *testing.T, protocol string) {
		p := start(t, mount("wss://"+addr, transport("versions 2")))
		client := p.client(t, protocol)
		response, err := client.Do(request(t, "GET", p.url("/websocket/get-qualityrtc-config"), nil, `If-None-Match: "1"`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusNotModified {
			t.Errorf("status %d, then %v", response.StatusCode, err)
		}
		if lines, _ := p.logs.matching(`"relay failed"`); len(lines) > 0 {
			t.Errorf("the log has %s", lines)
		}
		p.stop(t)
	})
}
