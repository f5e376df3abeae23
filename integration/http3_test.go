package integration_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStreamLastWordsThenReset has a relay that says something, ends with a Close frame
// and resets its connection, as one does that closes with input unread. A client that
// reads all the time gets all of it. Over HTTP/3 the reset cannot come behind it.
func TestStreamLastWordsThenReset(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		lastWords := wire(false, binaryMessage(100_000), wstest.CloseFrame(1000))
		addr := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			if _, err := c.ReadExactly(1); err != nil {
				t.Error(err)
			}
			c.WriteText(lastWords)
			c.Reset()
		}).Addr
		p := start(t, mount("wss://"+addr).over(protocol))
		for range 20 {
			s := p.open(t, protocol, "/websocket", "")
			s.write(t, "!")
			got, err := io.ReadAll(s.r)
			if string(got) != lastWords {
				t.Errorf("the client got %d of %d bytes, then %v", len(got), len(lastWords), err)
			}
			if err == nil && protocol == http2x {
				t.Error("the reset looks like an orderly end")
			}
		}
	})
}

// TestHTTP3UploadThenGone has a client that closes its connection in order while its
// relay takes its time. QUIC throws away what has come and has not been read by then.
// The relay gets all that was read, and then an abnormal end.
func TestHTTP3UploadThenGone(t *testing.T) {
	upload := wire(true, binaryMessage(16<<20))
	const begun = 1 << 20 // what is sent by then
	gone, got := make(chan bool), make(chan int, 1)
	addr := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith(""); err != nil {
			t.Error(err)
		}
		<-gone
		all, err := c.ReadToEnd()
		if err == nil || isTimeout(err) || !strings.HasPrefix(upload, string(all)) {
			t.Errorf("the relay got %d bytes, then %v", len(all), err)
		}
		got <- len(all)
	}).Addr
	p := start(t, mount("wss://"+addr).over(http3x))
	p.settleQUIC(t)
	transport := http3Transport(t, nil)
	s := p.openStream(t, transport, "/websocket", "")
	s.write(t, upload[:begun])
	go io.WriteString(s.w, upload[begun:]) // blocks until the client is gone
	transport.(*http3.Transport).Close()
	close(gone)
	n := await(t, got, "end")
	if closed := p.closed(t); closed["bytes_to_relay"] != float64(n) || closed["bytes_cut_to_relay"] != nil {
		t.Errorf("the relay got %d bytes; the log says %v", n, closed)
	}
}

// TestHTTP3Reason has a client that closes its connection with words of its own (RFC
// 9000, section 19.19). The log has none of them.
func TestHTTP3Reason(t *testing.T) {
	addr := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith(""); err != nil {
			t.Error(err)
		}
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr).over(http3x))
	p.settleQUIC(t)
	var conn *quic.Conn
	transport := http3Transport(t, nil)
	transport.(*http3.Transport).Dial = func(ctx context.Context, addr string, config *tls.Config, q *quic.Config) (_ *quic.Conn, err error) {
		conn, err = quic.DialAddrEarly(ctx, addr, config, q)
		return conn, err
	}
	wantStatus(t, p.openStream(t, transport, "/websocket", "").Response, http.StatusOK)
	conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "words of the client's\n"+strings.Repeat("A", 1000))
	if reason := p.closed(t)["reason"]; reason != "connection closed" {
		t.Errorf("reason %q", reason)
	}
}
