package integration_test

import (
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStreamUploadThenGone has a client that sends, ends its stream in order, and then
// closes its connection, while the relay takes its time. The relay gets all that the
// proxy has acknowledged. HTTP/2 has room for less on the way than HTTP/3.
func TestStreamUploadThenGone(t *testing.T) {
	overStreams(t, func(t *testing.T, protocol string) {
		size := map[string]int{http2x: 2_000_000, http3x: 5_000_000}[protocol]
		upload := wire(true, binaryMessage(size), wstest.CloseFrame(1000))
		gone, got := make(chan bool), make(chan int, 1)
		relay := rawRelay(t, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			<-gone
			all, err := c.ReadToEnd()
			t.Logf("the relay got %d of %d bytes, then %v", len(all), len(upload), err)
			got <- len(all)
		})
		p := start(t, mount("wss://"+relay.Addr).over(protocol))
		var transport interface{ Close() error }
		var s *tunnel
		if protocol == http3x {
			p.settleQUIC(t)
			tr := http3Transport(t, nil)
			transport, s = tr.(*http3.Transport), p.openStream(t, tr, "/websocket", "")
		} else {
			tr := p.http2Conn(t)
			transport, s = tr.(*http2.ClientConn), p.openStream(t, tr, "/websocket", "")
		}
		s.write(t, upload)
		s.closeWrite()
		time.Sleep(time.Second) // for acknowledgements, of which nothing tells
		transport.Close()
		time.Sleep(100 * time.Millisecond)
		close(gone)
		if n := await(t, got, "end"); n < len(upload) {
			t.Errorf("%d bytes are lost; the log says %v", len(upload)-n, p.closed(t))
		}
	})
}
