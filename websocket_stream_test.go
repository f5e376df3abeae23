package watchrtcproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
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

// TestHTTP3End ends streams, in order and not, whose client reads once they have ended.
func TestHTTP3End(t *testing.T) {
	const room = 10_000 // that the client grants
	whole, cut := make([]byte, room/2), make([]byte, room)
	for name, test := range map[string]struct {
		silent         time.Duration // since something was written
		cut            bool          // the client has no room for all that is written
		abnormal       bool
		partialResets  bool // that the client takes: they spare what was sent
		whole, inOrder bool // what the client gets
	}{
		"in order":                  {whole: true, inOrder: true},
		"in order, cut":             {cut: true},
		"in order, cut, partial":    {cut: true, partialResets: true, whole: true},
		"abnormal, right after":     {abnormal: true, whole: true, inOrder: true},
		"abnormal, in silence":      {abnormal: true, silent: deliveryTime},
		"abnormal, silent, partial": {abnormal: true, silent: deliveryTime, partialResets: true, whole: true},
		"abnormal, cut":             {abnormal: true, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			config := &quic.Config{
				InitialStreamReceiveWindow: room, MaxStreamReceiveWindow: room,
				EnableStreamResetPartialDelivery: test.partialResets,
			}
			ended := make(chan bool)
			r := openHTTP3Stream(t, config, func(s *http3Stream) {
				defer close(ended)
				if n, err := s.Write(whole); n != len(whole) || err != nil {
					t.Errorf("%d bytes are written, %v", n, err)
				}
				if test.cut {
					s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
					if n, err := s.Write(cut); n >= room/2 || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%d bytes are written, %v", n, err)
					}
				}
				s.written = s.written.Add(-test.silent)
				s.end(test.abnormal)
			})
			<-ended
			got, err := io.ReadAll(r)
			if err == nil != test.inOrder || test.whole && !bytes.HasPrefix(got, whole) {
				t.Errorf("the client gets %d bytes, then %v", len(got), err)
			}
			if reset, ok := errors.AsType[*http3.Error](err); err != nil && (!ok || reset.ErrorCode != http3.ErrCodeRequestCanceled) {
				t.Errorf("the client gets %v", err)
			}
		})
	}
}

// TestHTTP3Error shows that no words of a client's get into the log.
func TestHTTP3Error(t *testing.T) {
	const words = "words of the client's"
	for want, errs := range map[error][]error{
		nil:                   {nil},
		io.EOF:                {io.EOF},
		errStreamReset:        {&quic.StreamError{}, fmt.Errorf("%s: %w", words, &quic.StreamError{})},
		errConnectionClosed:   {&quic.ApplicationError{ErrorMessage: words}, fmt.Errorf("%w", &quic.ApplicationError{})},
		errConnectionVanished: {&quic.IdleTimeoutError{}},
		errConnectionFailed:   {&quic.TransportError{ErrorMessage: words}, &quic.StatelessResetError{}, errors.New(words)},
	} {
		for _, err := range errs {
			if got := http3Error(err); got != want {
				t.Errorf("%v: %v, want %v", err, got, want)
			}
		}
	}
}

// openHTTP3Stream returns what a client reads of a stream that handle writes, once the
// client has the response's header.
func openHTTP3Stream(t *testing.T, config *quic.Config, handle func(*http3Stream)) io.Reader {
	t.Helper()
	tlsConfig := authority.Issue("localhost").ServerConfig(http3.NextProtoH3)
	ln, err := quic.ListenAddrEarly("127.0.0.1:0", tlsConfig, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan bool)
	defer close(opened)
	server := &http3.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.NewResponseController(w).Flush()
		<-opened // lest a reset overtake the header
		handle(newHTTP3Stream(w.(http3.HTTPStreamer).HTTPStream()))
	})}
	served := make(chan error, 1)
	go func() { served <- server.ServeListener(ln) }()
	transport := &http3.Transport{TLSClientConfig: authority.ClientConfig("localhost"), QUICConfig: config}
	t.Cleanup(func() {
		transport.Close()
		server.Close()
		ln.Close()
		<-served
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response.Body
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
