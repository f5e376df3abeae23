package integration_test

import (
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestReasonIsNotTheClients has a client that closes its QUIC connection with words of
// its own (RFC 9000, section 19.19). The log's reason is a word or two of this module's.
func TestReasonIsNotTheClients(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith(""); err != nil {
			t.Error(err)
		}
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr).over(http3x))
	p.settleQUIC(t)
	conn, err := quic.DialAddr(testContext(t), p.addr, authority.ClientConfig("localhost", http3.NextProtoH3), nil)
	if err != nil {
		t.Fatal(err)
	}
	control, err := conn.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	control.Write([]byte{0, 4, 0}) // a control stream, SETTINGS
	s, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	block := literals(handshakeFields)
	s.Write(append(quicvarint.Append([]byte{1}, uint64(len(block))), block...))
	if _, err := s.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	conn.CloseWithError(0x100, "words of the client's\n"+strings.Repeat("A", 1000))
	if reason := p.closed(t)["reason"].(string); strings.Contains(reason, "words of the client's") || len(reason) > 128 {
		t.Errorf("a reason of %d bytes: %.80q", len(reason), reason)
	}
}
