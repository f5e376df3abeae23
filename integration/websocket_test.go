package integration_test

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// legs runs a test for each combination of TLS and none: the legs of a tunnel are
// read in different ways.
func legs(t *testing.T, test func(t *testing.T, plain bool, relayScheme string, relayTLS *tls.Config)) {
	for _, plain := range []bool{false, true} {
		name := map[bool]string{false: "TLS", true: "plain"}[plain]
		t.Run(name+" to TLS", func(t *testing.T) { test(t, plain, "wss://", leaf.ServerConfig()) })
		t.Run(name+" to plain", func(t *testing.T) { test(t, plain, "ws://", nil) })
	}
}

// TestPipelined has both ends send right after their handshakes, in the same
// write, small amounts and such as no buffer of theirs holds.
func TestPipelined(t *testing.T) {
	legs(t, func(t *testing.T, plain bool, scheme string, config *tls.Config) {
		for _, size := range []int{1, 100, 5000, 70_000} {
			fromClient := wire(true, binaryMessage(size)) + wire(true, wstest.Message("last"))
			fromRelay := wire(false, wstest.Message(`{"interval":8000}`)) + wire(false, binaryMessage(size))
			got := make(chan []byte, 1)
			addr := rawRelayWith(t, config, func(c *wstest.Conn) {
				if _, err := c.AcceptHandshakeWith(fromRelay); err != nil {
					t.Error(err)
				}
				p := make([]byte, len(fromClient))
				if _, err := io.ReadFull(c.R, p); err != nil {
					t.Error(err)
				}
				got <- p
				c.ReadToEnd()
			}).Addr
			s := mount(scheme+addr, "")
			s.plain = plain
			p := start(t, s)
			c := p.dial(t)
			c.write("GET /websocket HTTP/1.1\r\nHost: proxy.example\r\n" + strings.Join(wstest.HandshakeFields(wstest.SampleKey), "\r\n") + "\r\n\r\n" + fromClient)
			c.wantStatus(c.response("GET"), http.StatusSwitchingProtocols)
			back := make([]byte, len(fromRelay))
			if _, err := io.ReadFull(c.R, back); err != nil {
				t.Fatal(err)
			}
			if string(back) != fromRelay {
				t.Errorf("%d bytes from the relay do not arrive as they were", size)
			}
			if p := <-got; string(p) != fromClient {
				t.Errorf("%d bytes from the client do not arrive as they were", size)
			}
			c.close()
			p.stop(t)
		}
	})
}

// TestFramesUntouched sends what an intermediary could be tempted to look into:
// compressed, fragmented, with reserved bits and opcodes, control frames in between.
func TestFramesUntouched(t *testing.T) {
	legs(t, func(t *testing.T, plain bool, scheme string, config *tls.Config) {
		var fromClient, fromRelay strings.Builder
		for _, b := range []*strings.Builder{&fromClient, &fromRelay} {
			masked := b == &fromClient
			b.WriteString(wire(masked,
				wstest.Frame{Fin: true, RSV: 0x40, Opcode: wstest.Text, Payload: []byte("\xaa\x56\x4a\x04\x00")},
				wstest.Frame{Opcode: wstest.Text, Payload: []byte("frag")},
				wstest.Frame{Fin: true, Opcode: wstest.Ping, Payload: []byte("between")},
				wstest.Frame{Opcode: wstest.Continuation},
				wstest.Frame{Fin: true, Opcode: wstest.Continuation, Payload: []byte("ment")},
				wstest.Frame{Fin: true, RSV: 0x30, Opcode: 0x3, Payload: randomBytes(126)},
			))
			b.WriteString(wire(!masked, binaryMessage(65536)))
			b.WriteString(wire(masked, wstest.CloseFrame(4321)))
		}
		got := make(chan []byte, 1)
		addr := rawRelayWith(t, config, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith("", "Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"); err != nil {
				t.Error(err)
			}
			p := make([]byte, fromClient.Len())
			if _, err := io.ReadFull(c.R, p); err != nil {
				t.Error(err)
			}
			got <- p
			c.WriteText(fromRelay.String())
		}).Addr
		s := mount(scheme+addr, "")
		s.plain = plain
		p := start(t, s)
		c := p.dial(t)
		response := c.handshake("/websocket", "Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
		wantLine(t, "101", response.Header, "Sec-Websocket-Protocol", "2.0")
		wantLine(t, "101", response.Header, "Sec-Websocket-Extensions", "permessage-deflate; server_no_context_takeover")
		c.write(fromClient.String())
		if p := <-got; string(p) != fromClient.String() {
			t.Error("the client's frames do not arrive as they were")
		}
		back, err := io.ReadAll(c.R)
		if err != nil || string(back) != fromRelay.String() {
			t.Errorf("the relay's frames do not arrive as they were (%v)", err)
		}
		c.close()
		closed := p.closed(t)
		for field, want := range map[string]any{
			"frames_to_relay": 8.0, "frames_to_client": 8.0, "close_code": 4321.0, "closed_by": "client",
			"bytes_to_relay": float64(fromClient.Len()), "bytes_to_client": float64(fromRelay.Len()),
			"reason": "close frame", "client_ip": "127.0.0.1", "upstream": scheme + addr,
		} {
			if closed[field] != want {
				t.Errorf("the log says %s %v, want %v", field, closed[field], want)
			}
		}
	})
}

// TestLargeMessages sends one message of 64 MiB each way.
func TestLargeMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	message := randomBytes(64 << 20)
	want := sha256.Sum256(message)
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	ws := p.webSocket(t, "/websocket")
	ctx := testContext(t)
	sent := make(chan error, 1)
	go func() { sent <- ws.Write(ctx, websocket.MessageBinary, message) }()
	kind, back, err := ws.Read(ctx)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	if kind != websocket.MessageBinary || sha256.Sum256(back) != want {
		t.Errorf("a message of %d bytes came back as another of %d", len(message), len(back))
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

// TestHalfClose has one end stop to send; the other goes on until it is done.
func TestHalfClose(t *testing.T) {
	legs(t, func(t *testing.T, plain bool, scheme string, config *tls.Config) {
		question := wire(true, binaryMessage(50_000))
		reply := wire(false, binaryMessage(50_000))
		half := func(name string, relay func(*wstest.Conn), client func(*conn)) {
			t.Run(name, func(t *testing.T) {
				addr := rawRelayWith(t, config, func(c *wstest.Conn) {
					if _, err := c.AcceptHandshakeWith(""); err != nil {
						t.Error(err)
					}
					relay(c)
				}).Addr
				s := mount(scheme+addr, "")
				s.plain = plain
				p := start(t, s)
				c := p.dial(t)
				c.wantStatus(c.handshake("/websocket"), http.StatusSwitchingProtocols)
				client(c)
				if closed := p.closed(t); closed["close_code"] != 1006.0 || closed["closed_by"] != name || closed["reason"] != "end of stream" {
					t.Errorf("the log says %v", closed)
				}
			})
		}
		half("client", func(c *wstest.Conn) {
			if p, err := c.ReadToEnd(); err != nil || string(p) != question {
				t.Errorf("the relay gets %d bytes (%v)", len(p), err)
			}
			c.WriteText(reply)
		}, func(c *conn) {
			c.write(question)
			c.closeWrite()
			if p, err := io.ReadAll(c.R); err != nil || string(p) != reply {
				t.Errorf("the client gets %d bytes (%v)", len(p), err)
			}
		})
		half("relay", func(c *wstest.Conn) {
			c.WriteText(reply)
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			if p, err := c.ReadToEnd(); err != nil || string(p) != question {
				t.Errorf("the relay gets %d bytes (%v)", len(p), err)
			}
		}, func(c *conn) {
			if p, err := io.ReadAll(c.R); err != nil || string(p) != reply {
				t.Errorf("the client gets %d bytes (%v)", len(p), err)
			}
			c.write(question)
			c.closeWrite()
		})
	})
}

// TestAbnormalEnd shows that an end that is none stays one.
func TestAbnormalEnd(t *testing.T) {
	legs(t, func(t *testing.T, plain bool, scheme string, config *tls.Config) {
		hello := wire(true, wstest.Message("running"))
		ended := make(chan error, 1)
		resetting := make(chan bool, 1)
		addr := rawRelayWith(t, config, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c.R, make([]byte, len(hello))); err != nil {
				t.Error(err)
			}
			c.WriteText(hello)
			if <-resetting {
				c.Reset()
				return
			}
			_, err := c.ReadToEnd()
			ended <- err
		}).Addr
		s := mount(scheme+addr, "")
		s.plain = plain
		p := start(t, s)
		for _, byRelay := range []bool{false, true} {
			c := p.dial(t)
			c.wantStatus(c.handshake("/websocket"), http.StatusSwitchingProtocols)
			c.write(hello)
			if _, err := io.ReadFull(c.R, make([]byte, len(hello))); err != nil {
				t.Fatal(err)
			}
			resetting <- byRelay
			var err error
			if byRelay {
				_, err = io.ReadAll(c.R)
			} else {
				c.Reset()
				err = <-ended
			}
			if err == nil || isTimeout(err) {
				t.Errorf("by the relay %v: the other end sees %v", byRelay, err)
			}
		}
		p.logs.wait(t, 2, `"tunnel closed"`)
	})
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestHandlerReturns shows that a handshake is done with, and logged, while its
// tunnel lives.
func TestHandlerReturns(t *testing.T) {
	relay := newRelay(t, nil)
	s := mount(relay.URL, "")
	s.body += "\nlog"
	p := start(t, s)
	ws := p.webSocket(t, "/websocket")
	p.logs.wait(t, 1, `"handled request"`, `"status":101`)
	echo(t, ws, []byte("still there"))
	if lines, _ := p.logs.matching(`"tunnel closed"`); len(lines) > 0 {
		t.Errorf("the tunnel is over: %s", lines)
	}
	if err := ws.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Error(err)
	}
	if closed := p.closed(t); closed["close_code"] != 1000.0 || closed["closed_by"] != "client" {
		t.Errorf("the log says %v", closed)
	}
}

// TestIdleTimeout shows both ends being told when nothing has moved.
func TestIdleTimeout(t *testing.T) {
	legs(t, func(t *testing.T, plain bool, scheme string, config *tls.Config) {
		told := make(chan bool)
		addr := rawRelayWith(t, config, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			wantClose(t, c.Frames, wstest.GoingAway)
			close(told)
		}).Addr
		s := mount(scheme+addr, "idle_timeout 50ms")
		s.plain = plain
		p := start(t, s)
		c := p.dial(t)
		c.wantStatus(c.handshake("/websocket"), http.StatusSwitchingProtocols)
		wantClose(t, c.Frames, wstest.GoingAway)
		<-told
		c.close()
		if closed := p.closed(t); closed["reason"] != "idle" || closed["closed_by"] != "proxy" || closed["close_code"] != 1001.0 {
			t.Errorf("the log says %v", closed)
		}
	})
}

// TestSilence shows that Caddy's timeouts for bodies, and for idle connections, have
// no say in a tunnel: by the time that they have ended a request that began later,
// twice, it still works.
func TestSilence(t *testing.T) {
	legs(t, func(t *testing.T, plain bool, scheme string, config *tls.Config) {
		addr := rawRelayWith(t, config, func(c *wstest.Conn) {
			if _, err := c.AcceptHandshakeWith(""); err != nil {
				t.Error(err)
			}
			io.Copy(c, c.R)
		}).Addr
		s := mount(scheme+addr, "")
		s.plain, s.server = plain, shortTimeouts
		p := start(t, s)
		c := p.openInTime(t)
		for _, piece := range []string{"before", "after"} {
			c.write(piece)
			back := make([]byte, len(piece))
			if _, err := io.ReadFull(c.R, back); err != nil || string(back) != piece {
				t.Errorf("%q came back as %q (%v)", piece, back, err)
			}
			p.awaitTimeouts(t)
		}
		c.close()
	})
}

// shortTimeouts are options of a server.
const shortTimeouts = "timeouts {\nread_body_idle 50ms\nread_header 50ms\nwrite_idle 50ms\nidle 50ms\n}"

// openInTime opens a WebSocket before shortTimeouts end the attempt, which takes more than
// one on a busy machine.
func (p *proxy) openInTime(t *testing.T) *conn {
	t.Helper()
	for range 100 {
		c, err := p.tryDial(t)
		if err != nil {
			continue
		}
		if response, err := c.Handshake("/websocket"); err == nil && response.StatusCode == http.StatusSwitchingProtocols {
			return c
		}
		c.close()
	}
	t.Fatal("no handshake is in time")
	return nil
}

// awaitTimeouts sends requests without their bodies until shortTimeouts have ended
// two.
func (p *proxy) awaitTimeouts(t *testing.T) {
	t.Helper()
	for range 2 {
		c, err := p.tryDial(t)
		if err != nil {
			continue // ended during the TLS handshake, which also has to be in time
		}
		c.request("POST", "/websocket/trace", "Content-Length: 2")
		response, err := http.ReadResponse(c.R, nil)
		if err == nil && response.StatusCode < 400 {
			t.Errorf("a request without its body got %d", response.StatusCode)
		}
		c.close()
	}
}

// TestSessionID shows what of the query the log tells, and how much of it at most.
func TestSessionID(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, "mask_client_ip"))
	c := p.dial(t)
	c.wantStatus(c.handshake("/websocket?sessionId="+strings.Repeat("%41", 200)+"&apiKey=k"), http.StatusSwitchingProtocols)
	c.close()
	closed := p.closed(t)
	if closed["session_id"] != strings.Repeat("A", 128) || closed["client_ip"] != "127.0.0.0" {
		t.Errorf("the log says %v", closed)
	}
}
