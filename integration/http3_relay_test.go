package integration_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// serveHTTP3 runs a server, and returns the upstream that leads to it. Without a TLS
// configuration it has the certificate of these tests.
func serveHTTP3(t *testing.T, server *http3.Server) (upstream string) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if server.TLSConfig == nil {
		server.TLSConfig = http3.ConfigureTLSConfig(leaf.ServerConfig())
	}
	go server.Serve(socket)
	t.Cleanup(func() {
		server.Close()
		socket.Close()
	})
	return "wss://" + socket.LocalAddr().String()
}

// http3Relay runs a relay that speaks HTTP/3 frame by frame, each request in handle.
func http3Relay(t *testing.T, handle func(*quic.Stream)) (upstream string) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := quic.Listen(socket, http3.ConfigureTLSConfig(leaf.ServerConfig()), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); socket.Close() })
	go func() {
		for {
			conn, err := listener.Accept(t.Context())
			if err != nil {
				return
			}
			control, err := conn.OpenUniStream()
			if err != nil {
				return
			}
			control.Write([]byte{0, 4, 0}) // an empty SETTINGS frame
			go func() {
				defer conn.CloseWithError(0, "") // the test is over
				for {
					s, err := conn.AcceptStream(t.Context())
					if err != nil {
						return
					}
					go handle(s)
				}
			}()
		}
	}()
	return "wss://" + socket.LocalAddr().String()
}

// http3Frame returns a frame, of type 0 (DATA) or 1 (HEADERS).
func http3Frame(kind byte, payload []byte) []byte {
	return append(quicvarint.Append([]byte{kind}, uint64(len(payload))), payload...)
}

func http3Headers(fields ...string) []byte {
	var block bytes.Buffer
	encoder := qpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return http3Frame(1, block.Bytes())
}

// TestShortResponseOverHTTP3 has relays over HTTP/3 that end their stream, in order, before
// the length they have announced. quic-go leaves that to others to see (RFC 9114, section
// 4.1.2). The response never looks whole, also where it goes on without its length: with
// trailers, or encoded. It is logged as broken off.
func TestShortResponseOverHTTP3(t *testing.T) {
	for _, test := range []struct{ name, front, trailer string }{
		{"as it is", "", ""}, {"trailers", "", "X-Sum"}, {"encode", "encode", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, protocol string) {
				upstream := http3Relay(t, func(s *quic.Stream) {
					head := []string{":status", "200", "content-type", "text/plain", "content-length", "100000"}
					if test.trailer != "" {
						head = append(head, "trailer", test.trailer)
					}
					s.Write(append(http3Headers(head...), http3Frame(0, bytes.Repeat([]byte("cut "), 500))...))
					if test.trailer != "" {
						s.Write(http3Headers(strings.ToLower(test.trailer), "1"))
					}
					s.Close()
				})
				p := start(t, site{body: "route {\n" + test.front + "\n" + directive("/websocket", upstream, transport("versions 3")) + "\n}"})
				r := request(t, "POST", p.url("/websocket/trace"), strings.NewReader("{}"), "Accept-Encoding: gzip")
				response := do(t, p.client(t, protocol), r)
				if body, err := io.ReadAll(response.Body); err == nil {
					t.Errorf("status %d, %d bytes, and no error", response.StatusCode, len(body))
				}
				p.stop(t)
				if lines, _ := p.logs.matching("the relay broke off a response", upstream); len(lines) != 1 {
					t.Errorf("the log has %q", lines)
				}
			})
		})
	}
}

// TestTooLargeOverHTTP3: a body that exceeds max_body_size gets a 413 also where the relay
// is reached over HTTP/3, whose transport does not tell that a body has failed. It is not
// the relay's fault, which waits for the rest or resets the stream.
func TestTooLargeOverHTTP3(t *testing.T) {
	for name, after := range map[string]func(*quic.Stream){
		"waits":  func(*quic.Stream) {},
		"resets": func(s *quic.Stream) { s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestIncomplete)) },
	} {
		t.Run(name, func(t *testing.T) {
			upstream := http3Relay(t, func(s *quic.Stream) {
				io.Copy(io.Discard, s)
				after(s)
			})
			p := start(t, mount(upstream, "max_body_size 64KiB", "handshake_timeout 2s", transport("versions 3")))
			body := io.MultiReader(bytes.NewReader(make([]byte, 200_000))) // of unknown length
			response, err := p.client(t, http2x).Do(request(t, "POST", p.url("/websocket/trace"), body))
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("status %d", response.StatusCode)
			}
			if lines, _ := p.logs.matching(`"relay failed"`, upstream); len(lines) > 0 {
				t.Errorf("the log has %s", lines)
			}
		})
	}
}

// TestHTTP3SharedDial has clients that wait for the same connection to a relay over HTTP/3,
// which is opened for the first of them: that one leaves, and the others notice nothing.
func TestHTTP3SharedDial(t *testing.T) {
	hello, held := make(chan bool, 1), make(chan bool)
	proceed := sync.OnceFunc(func() { close(held) })
	var connections atomic.Int64
	config := http3.ConfigureTLSConfig(leaf.ServerConfig())
	ready := config.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if connections.Add(1) == 1 {
			hello <- true
			<-held
		}
		return ready, nil
	}
	upstream := serveHTTP3(t, &http3.Server{TLSConfig: config, Handler: http.HandlerFunc(respondToAll)})
	defer proceed()
	p := start(t, mount(upstream, transport("versions 3")))

	leaver := p.dial(t)
	leaver.request("GET", "/websocket/get-qualityrtc-config")
	await(t, hello, "connection to the relay")
	var others []*conn
	for range 3 {
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
		c.write("2\r\n{}\r\n0\r\n\r\n")
		others = append(others, c)
	}
	awaitTrue(t, "requests that wait", func() bool { return inStacks("http3.(*Transport).doRoundTripOpt(") == 4 })
	leaver.close()
	awaitTrue(t, "end of the first request", func() bool { return inStacks("(*Handler).ServeHTTP(") <= 3 })
	proceed()
	for _, c := range others {
		c.wantStatus(c.response("POST"), http.StatusOK)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections to the relay", n)
	}
}
