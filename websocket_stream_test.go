package watchrtcproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// TestHTTP3Silence shows that QUIC's idle timeout does not end a silent WebSocket,
// although neither Caddy nor this client sends PINGs, and that what prevents it is no
// part of the stream's bytes.
func TestHTTP3Silence(t *testing.T) {
	const idle = 2 * time.Second
	interval := keepAliveInterval
	t.Cleanup(func() { keepAliveInterval = interval })
	keepAliveInterval = idle / 8
	addr := start(t, handlerFor(t))
	settleQUIC(t, addr)
	w, r := openHTTP3(t, addr, &quic.Config{MaxIdleTimeout: idle})
	for _, piece := range []string{"before", "after"} {
		echo(t, w, r, piece)
		ended := make(chan error, 1)
		go func() {
			_, err := r.Peek(1)
			ended <- err
		}()
		select {
		case err := <-ended:
			t.Fatalf("in the silence the client gets %v", err)
		case <-time.After(idle * 3 / 2):
		}
		io.WriteString(w, "x") // for Peek
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if back, err := r.ReadByte(); err != nil || back != 'x' {
			t.Fatalf("%q, %v", back, err)
		}
	}
	w.Close()
}

// openHTTP3 opens a WebSocket by extended CONNECT (RFC 9220).
func openHTTP3(t *testing.T, addr string, config *quic.Config) (io.WriteCloser, *bufio.Reader) {
	t.Helper()
	transport := &http3.Transport{TLSClientConfig: authority.ClientConfig("localhost"), QUICConfig: config}
	t.Cleanup(func() { transport.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	body, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	r, err := http.NewRequestWithContext(ctx, http.MethodConnect, "https://"+addr, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Proto = "websocket"
	r.Header.Set("Sec-WebSocket-Version", "13")
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	return w, bufio.NewReader(response.Body)
}

// settleQUIC is for the race detector. Caddy may begin to serve QUIC before its tls
// app has started. No client comes by then, but causality through UDP is nothing
// that the detector sees; so have it see a lock that each QUIC handshake takes too.
func settleQUIC(t *testing.T, addr string) {
	t.Helper()
	udp, err := caddy.ParseNetworkAddress("udp/" + addr)
	if err != nil {
		t.Fatal(err)
	}
	// The listener is there already, and stays when this use of it ends, which takes
	// two calls of Close.
	ln, err := udp.ListenQUIC(t.Context(), 0, net.ListenConfig{}, authority.ClientConfig("localhost"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ln.Close(), ln.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestExtendedConnectSetting shows what the documentation says of HTTP/2: Caddy does not
// offer WebSockets over it unless GODEBUG says so. integration's TestStreamSetting is the
// other half.
func TestExtendedConnectSetting(t *testing.T) {
	conn, err := tls.Dial("tcp", start(t, handlerFor(t)), authority.ClientConfig("localhost", "h2"))
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
		if settings, ok := f.(*http2.SettingsFrame); ok && !settings.IsAck() {
			if value, offered := settings.Value(http2.SettingEnableConnectProtocol); offered && value == 1 {
				t.Error("extended CONNECT is offered")
			}
			return
		}
	}
}
