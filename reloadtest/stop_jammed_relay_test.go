//go:build unix

package reloadtest

import (
	"bytes"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStopJammedRelay stops the process while a relay over HTTP/2 sends PINGs and reads
// nothing, so that nothing can be written to its connection any more. A response over it
// is on its way to a client that does not read: giving it up would give the relay back what
// room it has taken, which is writing. The stop is in time.
func TestStopJammedRelay(t *testing.T) {
	t.Parallel()
	const window = 100 * time.Millisecond
	jammed, stopped := make(chan bool), make(chan bool)
	relayTLS := testCA.Issue("127.0.0.1").ServerConfig()
	relayTLS.NextProtos = []string{"h2"}
	relay := wstest.NewRelay(t, relayTLS, func(c *wstest.Conn) {
		io.ReadFull(c.R, make([]byte, len(http2.ClientPreface)))
		framer := http2.NewFramer(c, c.R)
		framer.WriteSettings()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				t.Error(err)
				return
			}
			if frame.Header().Type == http2.FrameHeaders {
				break
			}
		}
		var head bytes.Buffer
		hpack.NewEncoder(&head).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true})
		for range 250 { // less than a stream's window
			framer.WriteData(1, false, make([]byte, 16<<10))
		}
		var pings bytes.Buffer
		for range 1000 {
			http2.NewFramer(&pings, nil).WritePing(false, [8]byte{})
		}
		for err := error(nil); err == nil; {
			c.SetWriteDeadline(time.Now().Add(time.Second / 2))
			_, err = c.Write(pings.Bytes())
		}
		close(jammed)
		<-stopped
		c.Reset()
	})
	defer close(stopped)
	dir := writeCertificates(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.Addr, window: window, transport: "versions 2"}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	client, err := wstest.Dialer{TLS: clientTLS(), ReadBuffer: 16 << 10}.Dial(t.Context(), "tcp", cfg.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Drop()
	client.WriteRequest("GET", "/websocket/trace", "Host: localhost")
	<-jammed
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	checkStopped(t, p, begun, window)
}
