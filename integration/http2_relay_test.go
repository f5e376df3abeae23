package integration_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// h2Relay is a relay that speaks HTTP/2 frame by frame.
type h2Relay struct {
	*wstest.Conn
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
}

func relayTLSWithHTTP2() *tls.Config {
	config := leaf.ServerConfig()
	config.NextProtos = []string{"h2", "http/1.1"}
	return config
}

// newH2Relay reads the preface and grants the client large windows.
func newH2Relay(c *wstest.Conn) (*h2Relay, error) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.R, preface); err != nil {
		return nil, err
	}
	r := &h2Relay{Conn: c, framer: http2.NewFramer(c, c.R)}
	r.encoder = hpack.NewEncoder(&r.block)
	r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	return r, r.framer.WriteWindowUpdate(0, 1<<30)
}

// await reads frames until one of a kind.
func (r *h2Relay) await(kind http2.FrameType) error {
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil || frame.Header().Type == kind {
			return err
		}
	}
}

func (r *h2Relay) respond(stream uint32, end bool, fields ...string) error {
	r.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		r.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: r.block.Bytes(), EndHeaders: true, EndStream: end})
}

// exhaust writes PINGs, and reads nothing, until the peer reads nothing either.
func (r *h2Relay) exhaust() {
	var pings bytes.Buffer
	framer := http2.NewFramer(&pings, nil)
	for range 1000 {
		framer.WritePing(false, [8]byte{})
	}
	for {
		r.SetWriteDeadline(time.Now().Add(time.Second / 2))
		if _, err := r.Write(pings.Bytes()); err != nil {
			return
		}
	}
}

// respondToAll responds with 200 to each request from the first on.
func (r *h2Relay) respondToAll() {
	for stream := uint32(1); r.await(http2.FrameHeaders) == nil; stream += 2 {
		r.respond(stream, true, ":status", "200")
	}
}

// TestHTTP2RelayResets has a relay over HTTP/2 that resets its connection when neither
// end can write any more. Later uploads take another connection.
func TestHTTP2RelayResets(t *testing.T) {
	for _, relayTLS := range []*tls.Config{relayTLSWithHTTP2(), nil} {
		first := make(chan bool, 1)
		first <- true
		addr := wstest.NewRelay(t, relayTLS, func(c *wstest.Conn) {
			r, err := newH2Relay(c)
			if err != nil {
				return
			}
			select {
			case <-first:
				if err := r.await(http2.FrameData); err != nil {
					t.Error(err)
				}
				r.exhaust()
				c.Reset()
			default:
				r.respondToAll()
			}
		}).Addr
		s := mount("wss://"+addr, "handshake_timeout 5s")
		if relayTLS == nil {
			s = mount("ws://"+addr, "handshake_timeout 5s\ntransport http {\nversions h2c 2\n}")
		}
		p := start(t, s)
		for n := range 3 {
			c := p.dial(t)
			c.request("POST", "/websocket/trace", "Content-Length: 12000000")
			go io.Copy(c, strings.NewReader(strings.Repeat("x", 12_000_000)))
			response := c.response("POST")
			if n > 0 && response.StatusCode != http.StatusOK {
				t.Errorf("TLS %t, upload %d: status %d", relayTLS != nil, n, response.StatusCode)
			}
			c.close()
		}
		p.stop(t)
	}
}

// TestOddStatusesOverHTTP2 has statuses that HTTP/2 can carry and nothing can be done
// with.
func TestOddStatusesOverHTTP2(t *testing.T) {
	for _, status := range []string{"1000", "65536", "099", "000", "-1"} {
		addr := wstest.NewRelay(t, relayTLSWithHTTP2(), func(c *wstest.Conn) {
			r, err := newH2Relay(c)
			if err == nil && r.await(http2.FrameHeaders) == nil {
				r.respond(1, true, ":status", status)
				c.ReadToEnd()
			}
		}).Addr
		p := start(t, mount("wss://"+addr, ""))
		c := p.dial(t)
		c.request("POST", "/websocket/trace", "Origin: https://page.example", "Transfer-Encoding: chunked")
		c.write("2\r\n{}\r\n0\r\n\r\n")
		response, err := http.ReadResponse(c.R, nil)
		if err != nil {
			t.Errorf("%s: %v", status, err)
		} else {
			wantRefusal(t, status, response, http.StatusBadGateway)
		}
		c.close()
		p.stop(t)
	}
}

// TestHTTP2RelayFallsSilent has a relay whose connection over HTTP/2 stays open and says
// nothing more, whether it is read from or not. Uploads take another one before long.
func TestHTTP2RelayFallsSilent(t *testing.T) {
	ways := map[string]func(*h2Relay){
		"reads": func(r *h2Relay) { r.ReadToEnd() },
		"stops": func(*h2Relay) {},
		"jams":  (*h2Relay).exhaust,
	}
	var s site
	var mounts []string
	for way, fall := range ways {
		for scheme, relayTLS := range map[string]*tls.Config{"wss": relayTLSWithHTTP2(), "ws": nil} {
			first := make(chan bool, 1)
			first <- true
			addr := wstest.NewRelay(t, relayTLS, func(c *wstest.Conn) {
				r, err := newH2Relay(c)
				if err != nil {
					return
				}
				select {
				case <-first:
					if r.await(http2.FrameHeaders) == nil {
						r.respond(1, true, ":status", "200")
						fall(r)
						<-t.Context().Done()
					}
				default:
					r.respondToAll()
				}
			}).Addr
			options := []string{"handshake_timeout 200ms"}
			if relayTLS == nil {
				options = append(options, "transport http {\nversions h2c 2\n}")
			}
			path := "/" + way + "/" + scheme
			mounts = append(mounts, path)
			s.body += directive(path, scheme+"://"+addr, options...) + "\n"
		}
	}
	p := start(t, s)
	t.Run("mounts", func(t *testing.T) {
		for _, path := range mounts {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				upload := func() int {
					c := p.dial(t)
					defer c.close()
					c.request("POST", path+"/trace", "Transfer-Encoding: chunked")
					c.write("2\r\n{}\r\n0\r\n\r\n")
					return c.response("POST").StatusCode
				}
				for n := range 2 {
					awaitTrue(t, fmt.Sprintf("success of upload %d", n), func() bool { return upload() == http.StatusOK })
				}
			})
		}
	})
}

// TestHTTP2RelayLimitsHeads has a relay that says how large a request's head may be: it is
// not blamed for the response to one that is larger.
func TestHTTP2RelayLimitsHeads(t *testing.T) {
	addr := wstest.NewRelay(t, relayTLSWithHTTP2(), func(c *wstest.Conn) {
		r, err := newH2Relay(c)
		if err != nil {
			return
		}
		r.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 8 << 10})
		if r.await(http2.FrameHeaders) == nil {
			r.respond(1, true, ":status", "200")
		}
		c.ReadToEnd()
	}).Addr
	p := start(t, mount("wss://"+addr))
	upload(t, p, 1, http.StatusOK) // so that the relay's limit is known
	upload(t, p, 16<<10, http.StatusBadGateway)
	p.logs.await(t, "relay failed", "does not take a request with so large a head")
}

// upload sends a small body in chunks, behind a field of a size.
func upload(t *testing.T, p *proxy, size, status int) {
	t.Helper()
	c := p.dial(t)
	defer c.close()
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked", "X-Field: "+strings.Repeat("x", size))
	c.write("2\r\n{}\r\n0\r\n\r\n")
	c.wantStatus(c.response("POST"), status)
}
