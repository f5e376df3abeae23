package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// TestHTTP3Requests has a page that came over HTTP/3 make the requests that the
// SDK falls back to over it too. The WebSocket goes by HTTP/1.1: Chromium has none
// over HTTP/3.
func TestHTTP3Requests(t *testing.T) {
	s := newSetup(t, relay.Config{}, caddy.Config{})
	page, conn := s.connectSameOrigin(t, "--enable-quic",
		"--origin-to-force-quic-on=rtc.site.test:"+port(s.addr),
		"--ignore-certificate-errors-spki-list="+s.leaf.SPKI())
	checkVia(t, conn.Request, "1.1 Caddy")

	page.Run(t, "watchRTC.disconnect(); await watchRTC.setUserRating(5, 'e2e-comment')")
	trace := s.request(t, http.MethodPost, "/trace")
	checkVia(t, trace, "3.0 Caddy")
	checkBody(t, trace, "e2e-comment")
	if got := browser.Eval[seen](t, page, "post('"+s.url("https")+"/trace')"); got.Status != http.StatusOK {
		t.Errorf("page code sees %+v, want status 200", got)
	}
}

// TestHTTP3WebSocket opens a WebSocket over HTTP/3 (RFC 9220) with quic-go.
func TestHTTP3WebSocket(t *testing.T) {
	s := newSetup(t, relay.Config{}, caddy.Config{})
	stream := s.dialHTTP3(t)
	frames := wstest.NewReader(stream, false)
	if greeting, err := frames.Next(); err != nil || !strings.Contains(string(greeting.Payload), "connectionId") {
		t.Errorf("greeting %s, %v", greeting, err)
	}
	conn, err := s.relay.WaitConn(soon(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	checkVia(t, conn.Request, "3.0 Caddy")
	if conn.Subprotocol != "2.0" {
		t.Errorf("subprotocol %q, want 2.0", conn.Subprotocol)
	}

	if _, err := stream.Write(wstest.Encode(true, wstest.Message(`["over HTTP/3"]`))); err != nil {
		t.Fatal(err)
	}
	if message, err := conn.WaitMessage(soon(t), 1); err != nil || string(message.Data) != `["over HTTP/3"]` {
		t.Errorf("message %q, %v", message.Data, err)
	}
	if _, err := stream.Write(wstest.Encode(true, wstest.CloseFrame(wstest.NormalClosure))); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil { // its own direction
		t.Fatal(err)
	}
	select {
	case <-conn.Done():
	case <-soon(t).Done():
		t.Fatal("the relay's leg is still open")
	}
	if code, _ := conn.CloseCode(); code != 1000 {
		t.Errorf("the relay saw close code %d, want 1000", code)
	}
	if f, err := frames.Next(); err != nil || f.Opcode != wstest.Close || f.Code() != wstest.NormalClosure || len(f.Payload) != 2 {
		t.Errorf("the client got %s, %v, want the Close frame", f, err)
	}
	if f, err := frames.Next(); err != io.EOF {
		t.Errorf("the client got %s, %v, want the end", f, err)
	}
}

// dialHTTP3 makes the handshake of RFC 9220.
func (s *setup) dialHTTP3(t *testing.T) *http3.RequestStream {
	t.Helper()
	ctx := soon(t)
	conn, err := quic.DialAddr(ctx, s.addr, &tls.Config{RootCAs: s.ca.Pool, NextProtos: []string{http3.NextProtoH3}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	client := new(http3.Transport).NewClientConn(conn)
	select {
	case <-client.ReceivedSettings():
	case <-ctx.Done():
		t.Fatal("no settings")
	}
	if !client.Settings().EnableExtendedConnect {
		t.Fatal("Caddy does not offer extended CONNECT over HTTP/3")
	}
	stream, err := client.OpenRequestStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.SendRequestHeader(&http.Request{
		Method: http.MethodConnect,
		Proto:  "websocket",
		Host:   s.addr,
		URL:    &url.URL{Scheme: "https", Host: s.addr, Path: mount, RawQuery: "apiKey=k"},
		Header: http.Header{"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Protocol": {"2.0"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := stream.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatal(fmt.Sprint(response.Status, response.Header))
	}
	return stream
}
