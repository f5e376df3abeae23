package integration_test

import (
	"crypto/tls"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStreamSetting shows what the documentation says of HTTP/2: Caddy offers WebSockets
// over it if GODEBUG says so. The plugin's TestExtendedConnectSetting is the other half.
func TestStreamSetting(t *testing.T) {
	p := start(t, mount(newRelay(t, nil).URL, ""))
	conn, err := tls.Dial("tcp", p.addr, authority.ClientConfig("localhost", "h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	framer := http2.NewFramer(conn, conn)
	io.WriteString(conn, http2.ClientPreface)
	framer.WriteSettings()
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		settings, ok := f.(*http2.SettingsFrame)
		if !ok || settings.IsAck() {
			continue
		}
		value, offered := settings.Value(http2.SettingEnableConnectProtocol)
		if !offered || value != 1 {
			t.Errorf("extended CONNECT is not offered")
		}
		return
	}
}

// TestStreamStalledNeighbour measures what docs/http2-http3.md says of a WebSocket
// whose relay has stopped reading: how much its client can send, and whether another
// on the same HTTP/2 connection can still send anything. It checks nothing.
//
//	COMPARE=1 go test ./integration -run TestStreamStalledNeighbour -v
func TestStreamStalledNeighbour(t *testing.T) {
	if os.Getenv("COMPARE") == "" {
		t.Skip("COMPARE is not set")
	}
	for _, handler := range []string{"watchrtc_proxy", "reverse_proxy"} {
		stop := make(chan struct{})
		relay := rawRelay(t, func(c *wstest.Conn) {
			req, err := c.AcceptHandshakeWith("")
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(req.RequestURI, "stall") {
				<-stop
				return
			}
			io.Copy(c, c.R)
		}).Addr
		s := mount("wss://"+relay, "")
		if handler == "reverse_proxy" {
			s = site{body: "reverse_proxy https://" + relay + " {\nstream_close_delay 0\n" + transport("") + "\n}"}
		}
		p := start(t, s)
		conn := p.http2Conn(t)
		stalled, other := p.openStream(t, conn, "/websocket?stall", ""), p.openStream(t, conn, "/websocket", "")
		other.write(t, "before")
		expect(t, other.r, "before")
		sent := make(chan int)
		go func() {
			for {
				n, err := stalled.w.Write(make([]byte, 1<<10))
				if err != nil {
					return
				}
				sent <- n
			}
		}()
		total := 0
		for full := false; !full; {
			select {
			case n := <-sent:
				total += n
			case <-time.After(2 * time.Second):
				full = true
			}
		}
		echoed := make(chan struct{})
		go func() {
			io.WriteString(other.w, "after")
			io.ReadFull(other.r, make([]byte, 5))
			close(echoed)
		}()
		select {
		case <-echoed:
			t.Logf("%s: the stalled one took %d bytes, the other goes on", handler, total)
		case <-time.After(5 * time.Second):
			t.Logf("%s: the stalled one took %d bytes, the other gets nothing through for 5 s", handler, total)
		}
		close(stop)
		stalled.reset()
		other.reset()
		p.stop(t)
	}
}
