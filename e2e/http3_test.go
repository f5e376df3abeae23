package e2e

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

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
		"--ignore-certificate-errors-spki-list="+s.leaf.SPKI(t))
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
	if greeting := readText(t, stream); !strings.Contains(greeting, "connectionId") {
		t.Errorf("greeting %q", greeting)
	}
	conn, err := s.relay.WaitConn(soon(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	checkVia(t, conn.Request, "3.0 Caddy")
	if conn.Subprotocol != "2.0" {
		t.Errorf("subprotocol %q, want 2.0", conn.Subprotocol)
	}

	writeFrame(t, stream, 0x81, `["over HTTP/3"]`)
	if message, err := conn.WaitMessage(soon(t), 1); err != nil || string(message.Data) != `["over HTTP/3"]` {
		t.Errorf("message %q, %v", message.Data, err)
	}
	writeFrame(t, stream, 0x88, "\x03\xe8")
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
	if rest, err := io.ReadAll(stream); err != nil || string(rest) != "\x88\x02\x03\xe8" {
		t.Errorf("the client got %x, %v, want the Close frame and the end", rest, err)
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

// readText reads one short frame.
func readText(t *testing.T, r io.Reader) string {
	t.Helper()
	header := make([]byte, 2)
	if _, err := io.ReadFull(r, header); err != nil {
		t.Fatal(err)
	}
	size := int(header[1])
	if size == 126 {
		if _, err := io.ReadFull(r, header); err != nil {
			t.Fatal(err)
		}
		size = int(binary.BigEndian.Uint16(header))
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

// writeFrame writes one short frame, masked with zeros.
func writeFrame(t *testing.T, w io.Writer, first byte, payload string) {
	t.Helper()
	frame := append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	if _, err := w.Write(frame); err != nil {
		t.Fatal(err)
	}
}
