package watchrtcproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// extendedConnect is what lets Go's HTTP/2 server, and so Caddy's, take WebSockets.
// It is read when a process starts.
const extendedConnect = "http2xconnect=1"

func extendedConnectEnabled() bool { return strings.Contains(os.Getenv("GODEBUG"), extendedConnect) }

// TestHTTP2 runs the part over HTTP/2 of each TestStream*, in a process that has
// extended CONNECT enabled.
func TestHTTP2(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestStream", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+","+extendedConnect, ","))
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	run := regexp.MustCompile(`(?m)^=== RUN   TestStream\w+$`).FindAll(output, -1)
	passed := regexp.MustCompile(`(?m)^    --- PASS: TestStream\w+/HTTP2 `).FindAll(output, -1)
	if len(run) == 0 || len(passed) != len(run) {
		t.Errorf("%d of %d tests passed over HTTP/2\n%s", len(passed), len(run), output)
	}
}

// overStreams runs a test over HTTP/2 in a process that has extended CONNECT
// enabled (see TestHTTP2), and else over HTTP/3, where it always is.
func overStreams(t *testing.T, test func(t *testing.T, open opener)) {
	if extendedConnectEnabled() {
		t.Run("HTTP2", func(t *testing.T) { test(t, openHTTP2) })
		return
	}
	t.Run("HTTP3", func(t *testing.T) { test(t, openHTTP3) })
}

// stream is a client's stream that an extended CONNECT opened.
type stream struct {
	*http.Response
	t *testing.T
	r *bufio.Reader
	w *io.PipeWriter

	cancel context.CancelFunc
}

// reset ends both directions the abnormal way.
func (s *stream) reset() {
	s.cancel()
	s.w.CloseWithError(context.Canceled) // the client may wait for its body
}

// opener opens a stream for a WebSocket with fields, lines of which an empty one
// deletes what would be there; early is written before there is an answer.
type opener func(t *testing.T, p *proxy, target, early string, fields ...string) *stream

func openHTTP2(t *testing.T, p *proxy, target, early string, fields ...string) *stream {
	t.Helper()
	raw, err := tls.Dial("tcp", p.addr, clientTLS("h2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	//lint:ignore SA1019 the connection is what its successor takes too, but that sends no :protocol
	conn, err := new(http2.Transport).NewClientConn(raw)
	if err != nil {
		t.Fatal(err)
	}
	req, s := newStream(t, p, target, fields)
	req.Header[":protocol"] = []string{"websocket"}
	return s.open(conn, req, early)
}

func openHTTP3(t *testing.T, p *proxy, target, early string, fields ...string) *stream {
	t.Helper()
	p.settleQUIC(t)
	return p.openHTTP3With(t, nil, target, early, fields...)
}

// openHTTP3With opens a stream over a connection with a configuration of its own.
func (p *proxy) openHTTP3With(t *testing.T, config *quic.Config, target, early string, fields ...string) *stream {
	t.Helper()
	transport := &http3.Transport{TLSClientConfig: clientTLS(), QUICConfig: config}
	t.Cleanup(func() { transport.Close() })
	req, s := newStream(t, p, target, fields)
	req.Proto = "websocket"
	return s.open(transport, req, early)
}

// settleQUIC is for the race detector. Caddy may begin to serve QUIC before its tls
// app has started. No client comes by then, but causality through UDP is nothing
// that the detector sees; so have it see a lock that each QUIC handshake takes too.
func (p *proxy) settleQUIC(t *testing.T) {
	t.Helper()
	addr, err := caddy.ParseNetworkAddress("udp/" + p.addr)
	if err != nil {
		t.Fatal(err)
	}
	// The listener is there already, and stays when this use of it ends, which takes
	// two calls of Close.
	ln, err := addr.ListenQUIC(testContext(t), 0, net.ListenConfig{}, clientTLS(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ln.Close(), ln.Close()); err != nil {
		t.Fatal(err)
	}
}

func newStream(t *testing.T, p *proxy, target string, fields []string) (*http.Request, *stream) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	t.Cleanup(cancel)
	body, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, p.url(target), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("User-Agent", "test/1")
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		if req.Header.Set(name, strings.TrimSpace(value)); value == "" {
			req.Header.Del(name)
		}
	}
	t.Cleanup(func() { w.Close() })
	return req, &stream{t: t, w: w, cancel: cancel}
}

func (s *stream) open(transport http.RoundTripper, req *http.Request, early string) *stream {
	s.t.Helper()
	if early != "" {
		go s.w.Write([]byte(early)) // blocks until the stream takes it
	}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { answer.Body.Close() })
	s.Response, s.r = answer, bufio.NewReader(answer.Body)
	return s
}

func (s *stream) write(p string) {
	s.t.Helper()
	if _, err := io.WriteString(s.w, p); err != nil {
		s.t.Fatal(err)
	}
}

// read wants the next bytes of the stream to be want.
func (s *stream) read(want string) {
	s.t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(s.r, got); err != nil {
		s.t.Fatal(err)
	}
	if string(got) != want {
		s.t.Errorf("%d bytes do not arrive as they were sent", len(want))
	}
}

func (s *stream) wantStatus(want int) {
	s.t.Helper()
	if s.StatusCode != want {
		s.t.Fatalf("status %d, want %d; header %v", s.StatusCode, want, s.Header)
	}
}

// TestHTTP3Silence shows that QUIC's idle timeout does not end a silent WebSocket,
// although neither Caddy nor this client sends PINGs, and that what prevents it is no
// part of the stream's bytes.
func TestHTTP3Silence(t *testing.T) {
	const idle = 2 * time.Second
	interval := keepAliveInterval
	t.Cleanup(func() { keepAliveInterval = interval })
	keepAliveInterval = idle / 8
	p := start(t, mountOn("wss://"+newEchoRelay(t), ""))
	p.settleQUIC(t)
	s := p.openHTTP3With(t, &quic.Config{MaxIdleTimeout: idle}, "/websocket", "")
	s.wantStatus(http.StatusOK)
	for _, piece := range []string{"before", "after"} {
		s.write(piece)
		s.read(piece)
		ended := make(chan error, 1)
		go func() {
			_, err := s.r.Peek(1)
			ended <- err
		}()
		select {
		case err := <-ended:
			t.Fatalf("in the silence the client gets %v", err)
		case <-time.After(idle * 3 / 2):
		}
		s.write("x") // for Peek
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		s.read("x")
	}
	s.w.Close()
}

// TestExtendedConnectSetting shows what the documentation says of HTTP/2: Caddy
// offers WebSockets over it exactly if GODEBUG says so.
func TestExtendedConnectSetting(t *testing.T) { checkExtendedConnectSetting(t, false) }

// TestStreamSetting is the other half of TestExtendedConnectSetting.
func TestStreamSetting(t *testing.T) {
	overStreams(t, func(t *testing.T, _ opener) { checkExtendedConnectSetting(t, extendedConnectEnabled()) })
}

func checkExtendedConnectSetting(t *testing.T, want bool) {
	p := start(t, mountOn(newRelay(t, nil).URL, ""))
	conn, err := tls.Dial("tcp", p.addr, clientTLS("h2"))
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
		if got := offered && value == 1; got != want {
			t.Errorf("extended CONNECT is offered: %v, want %v", got, want)
		}
		return
	}
}

// TestStreamStalledNeighbour measures what docs/http2-http3.md says of a WebSocket
// whose relay has stopped reading: how much its client can send, and whether another
// on the same HTTP/2 connection can still send anything. It checks nothing.
//
//	COMPARE=1 GODEBUG=http2xconnect=1 go test . -run TestStreamStalledNeighbour -v
func TestStreamStalledNeighbour(t *testing.T) {
	overStreams(t, func(t *testing.T, _ opener) {
		if os.Getenv("COMPARE") == "" || !extendedConnectEnabled() {
			t.Log("COMPARE is not set, or this is HTTP/3")
			return
		}
		for _, handler := range []string{"watchrtc_proxy", "reverse_proxy"} {
			stop := make(chan struct{})
			relay := newRawRelay(t, relayTLS(), func(c *rawConn) {
				req, err := c.upgrade("")
				if err != nil {
					t.Error(err)
				}
				if strings.Contains(req.RequestURI, "stall") {
					<-stop
					return
				}
				io.Copy(c.Conn, c.r)
			})
			s := mountOn("wss://"+relay, "")
			if handler == "reverse_proxy" {
				s = site{body: "reverse_proxy https://" + relay + " {\nstream_close_delay 0\ntransport http {\ntls_trust_pool file {roots}\n}\n}"}
			}
			p := start(t, s)
			raw, err := tls.Dial("tcp", p.addr, clientTLS("h2"))
			if err != nil {
				t.Fatal(err)
			}
			//lint:ignore SA1019 see openHTTP2
			conn, err := new(http2.Transport).NewClientConn(raw)
			if err != nil {
				t.Fatal(err)
			}
			onConn := func(target string) *stream {
				req, s := newStream(t, p, target, nil)
				req.Header[":protocol"] = []string{"websocket"}
				return s.open(conn, req, "")
			}
			stalled, other := onConn("/websocket?stall"), onConn("/websocket")
			other.write("before")
			other.read("before")
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
			raw.Close()
			stalled.cancel()
			other.cancel()
			if err := caddy.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
}
