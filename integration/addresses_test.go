package integration_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// way is how a request gets to a relay.
type way struct {
	kind, scheme, options string
	http2                 bool
}

// ways are all of them.
var ways = map[string]way{
	"WebSocket":            {"WebSocket", "wss", "", false},
	"WebSocket, plain":     {"WebSocket", "ws", "", false},
	"POST, pool":           {"POST", "wss", "", false},
	"POST, pool, plain":    {"POST", "ws", "", false},
	"POST, http.Transport": {"POST", "wss", "read_timeout 1h", false},
	"POST, HTTP/2":         {"POST", "wss", "versions 2", true},
}

// relay has host i be one of h's that w leads to.
func (w way) relay(t *testing.T, h *hosts, i int) {
	t.Helper()
	switch {
	case w.scheme == "ws":
		h.plainRelay(t, i)
	case w.http2:
		h.relay(t, i, withHTTP2)
	default:
		h.relay(t, i)
	}
}

// start runs a proxy whose upstream is h.
func (w way) start(t *testing.T, h *hosts, options ...string) *proxy {
	t.Helper()
	text := h.transport(append(options, w.options)...)
	if w.scheme == "ws" {
		text = strings.ReplaceAll(text, "tls_trust_pool file "+rootsFile, "")
	}
	return start(t, mount(h.upstream(w.scheme), text, "handshake_timeout 1h"))
}

// ask makes a request of w's kind, which the relay must see.
func (w way) ask(t *testing.T, p *proxy) {
	t.Helper()
	c := p.dial(t)
	c.ask(w.kind, "/websocket")
	c.close()
}

// TestTwoDeadAddresses has two addresses that take no SYN before a good one. The second
// request goes to the good one at once: at the others, which take connections by then,
// nobody knocks.
func TestTwoDeadAddresses(t *testing.T) {
	for name, w := range ways {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 3)
			revive := []func(){h.kill(t, 0), h.kill(t, 1)}
			w.relay(t, h, 2)
			delay := "dial_fallback_delay 20ms"
			if name == "WebSocket" {
				delay = "" // as it is for users
			}
			p := w.start(t, h, delay, "keepalive off")
			begun := time.Now()
			w.ask(t, p)
			first := time.Since(begun)
			var again []*atomic.Int64
			for i, revive := range revive {
				revive()
				again = append(again, h.serve(t, i, func(net.Conn) {}))
			}
			begun = time.Now()
			w.ask(t, p)
			t.Logf("the first took %s, the second %s", first.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
			for i, accepted := range again {
				if n := accepted.Load(); n != 0 {
					t.Errorf("%s was connected to %d times", h.addrs[i], n)
				}
			}
		})
	}
}

// TestRefusedAddresses has nobody listen at the first addresses, one of IPv6, then a host
// whose certificate is not trusted, and one that knows no TLS.
func TestRefusedAddresses(t *testing.T) {
	stranger := wstest.NewAuthority("stranger").Issue("relay.example")
	for name, w := range ways {
		if w.scheme == "ws" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 4)
			h.names.set("relay.example", append([]string{"::1"}, h.addrs...)...) // where nobody listens either
			h.refuse(0)
			distrusted := h.serve(t, 1, func(conn net.Conn) { tls.Server(conn, stranger.ServerConfig()).Handshake() })
			confused := h.serve(t, 2, func(conn net.Conn) { conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) })
			w.relay(t, h, 3)
			p := w.start(t, h, "keepalive off", "dial_fallback_delay 1h")
			for range 3 {
				w.ask(t, p)
			}
			if n, m := distrusted.Load(), confused.Load(); n != 1 || m != 1 {
				t.Errorf("hosts that failed were connected to %d and %d times, want once", n, m)
			}
			p.stop(t)
			if lines, _ := p.logs.matching(`"relay failed"`, fmt.Sprintf("relay.example:%d", h.port)); len(lines) != 0 {
				t.Errorf("the relay is said to fail: %q", lines)
			}
			p.logs.wait(t, 1, `"relay reached in spite of a failure"`, `"stage":"tls"`, " addresses failed: dial tcp ", h.addrs[0]+":", "; another address served")
		})
	}
}

// TestAddressesAllFail has the response, the stage and the words.
func TestAddressesAllFail(t *testing.T) {
	stranger := wstest.NewAuthority("stranger").Issue("relay.example")
	for _, kind := range kinds {
		h := newHosts(t, 3)
		h.refuse(0)
		h.serve(t, 1, func(conn net.Conn) { tls.Server(conn, stranger.ServerConfig()).Handshake() })
		h.refuse(2)
		p := start(t, mount(h.upstream("wss"), h.transport()))
		c := p.dial(t)
		wantRefusal(t, kind, c.try(kind, "/websocket", "Origin: https://page.example"), http.StatusBadGateway)
		c.close()
		refused := func(i int) string {
			return fmt.Sprintf("dial tcp %s:%d: connect: connection refused", h.addrs[i], h.port)
		}
		p.logs.wait(t, 1, `"relay failed"`, `"stage":"tls"`, `"up":false`,
			"3 addresses failed: "+refused(0)+"; "+h.addrs[1]+": tls: ", "; "+refused(2))
		p.stop(t)
	}
}

// TestClientGivesUp has a client leave while addresses are tried: nobody goes on trying,
// and nothing that connects later stays open.
func TestClientGivesUp(t *testing.T) {
	for name, w := range ways {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 2)
			h.kill(t, 0)
			h.kill(t, 1)
			p := w.start(t, h, "dial_fallback_delay 1ms")
			c := p.dial(t)
			if w.kind == "WebSocket" {
				c.request("GET", "/websocket", wstest.HandshakeFields(wstest.SampleKey)...)
			} else {
				c.request("POST", "/websocket/trace", "Content-Length: 2")
				c.write("{}")
			}
			awaitTrue(t, "two attempts", func() bool { return inStacks("watchrtc-proxy/internal/relay.(*dialer).attempt(") == 2 })
			c.close()
			awaitTrue(t, "end of all attempts", func() bool { return inStacks("watchrtc-proxy/internal/relay.") == 0 })
			if n := connecting(t, h); n != 0 {
				t.Errorf("%d sockets still connect", n)
			}
		})
	}
}

// connecting returns how many sockets wait for h to accept them.
func connecting(t *testing.T, h *hosts) int {
	t.Helper()
	sockets, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip(err)
	}
	syn := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:%04X 02 `, h.port))
	return len(syn.FindAll(sockets, -1))
}

// TestNewAddresses has DNS change: the next connection goes to the new address, without
// a reload.
func TestNewAddresses(t *testing.T) {
	for name, w := range ways {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 2)
			h.names.set("relay.example", h.addrs[0])
			var old *atomic.Int64
			if w.scheme == "wss" {
				old = h.serve(t, 0, func(conn net.Conn) { tls.Server(conn, leaf.ServerConfig()).Handshake() })
			} else {
				old = h.serve(t, 0, func(conn net.Conn) {})
			}
			w.relay(t, h, 1)
			p := w.start(t, h)
			c := p.dial(t)
			c.wantStatus(c.try(w.kind, "/websocket"), http.StatusBadGateway)
			c.close()
			h.names.set("relay.example", h.addrs[1])
			w.ask(t, p)
			if n := old.Load(); n != 1 {
				t.Errorf("the old address was connected to %d times", n)
			}
		})
	}
}

// TestLastGoodAnswer has DNS fail, in each way, when it has been right once. A reload
// forgets nothing.
func TestLastGoodAnswer(t *testing.T) {
	for name, test := range map[string]func(*nameServer){
		"server failure": func(s *nameServer) { s.fail(dnsmessage.RCodeServerFailure) },
		"no such name":   func(s *nameServer) { s.fail(dnsmessage.RCodeNameError) },
		"silence":        (*nameServer).fallSilent,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 1)
			h.relay(t, 0)
			s := mount(h.upstream("wss"), h.transport("keepalive off", "dial_timeout 1500ms")) // of a lookup, too
			p := start(t, s)
			ways["WebSocket"].ask(t, p)
			ways["POST, pool"].ask(t, p)
			test(h.names)
			s.body += "\nheader X-Another configuration"
			p.reload(t, s)
			ways["WebSocket"].ask(t, p)
			ways["POST, pool"].ask(t, p)
			p.logs.wait(t, 1, `"relay reached in spite of a failure"`, `"stage":"dns"`, "; the last good answer serves")
		})
	}
}

// TestDeadNameServers has one of two name servers not answer from the beginning. The other
// is asked in its place, in whatever order.
func TestDeadNameServers(t *testing.T) {
	for name, test := range map[string]func(*nameServer){
		"server failure": func(s *nameServer) { s.fail(dnsmessage.RCodeServerFailure) },
		"silence":        (*nameServer).fallSilent,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHosts(t, 1)
			h.relay(t, 0)
			dead := newNameServer(t)
			test(dead)
			for i := range 4 { // each asks in an order of its own, and knows nothing of the others' answers
				p := start(t, mount(h.upstream("wss"), transport(fmt.Sprintf("resolvers %s %s\ndial_timeout %dms", dead.addr, h.names.addr, 3000+i))))
				ways["WebSocket"].ask(t, p)
				p.stop(t)
			}
		})
	}
}

// TestReloadRemembersAddresses: a host that has failed is not tried first again because of
// a reload.
func TestReloadRemembersAddresses(t *testing.T) {
	h := newHosts(t, 2)
	failing := h.serve(t, 0, func(net.Conn) {})
	h.relay(t, 1)
	s := mount(h.upstream("wss"), h.transport())
	p := start(t, s)
	for range 3 {
		ways["WebSocket"].ask(t, p)
		s.body += "\nheader X-Another configuration"
		p.reload(t, s)
	}
	if n := failing.Load(); n != 1 {
		t.Errorf("the host that fails was connected to %d times", n)
	}

	// Unless failures are not to be remembered.
	s = mount(h.upstream("wss"), h.transport(), "fail_duration 0")
	p.reload(t, s)
	for range 3 {
		ways["WebSocket"].ask(t, p)
	}
	if n := failing.Load(); n != 4 {
		t.Errorf("with fail_duration 0 the host that fails was connected to %d times, want 4", n)
	}
}

// TestAddressesAndTransport has options of Caddy's transport that have to do with
// addresses.
func TestAddressesAndTransport(t *testing.T) {
	t.Run("local_address", func(t *testing.T) {
		for name, w := range ways {
			h := newHosts(t, 2)
			h.refuse(0)
			from := make(chan string, 4)
			remember := func(server *httptest.Server) {
				server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
					if state == http.StateNew {
						from <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
					}
				}
			}
			if w.scheme == "ws" {
				continue
			}
			h.relay(t, 1, remember, func(server *httptest.Server) { server.EnableHTTP2 = w.http2 })
			h.names.set("relay.example", "::1", h.addrs[0], h.addrs[1])
			p := w.start(t, h, "local_address 127.0.0.9")
			w.ask(t, p)
			if got := <-from; got != "127.0.0.9" {
				t.Errorf("%s: the relay is connected to from %s", name, got)
			}
			p.stop(t)
		}
	})
	t.Run("no address of its family", func(t *testing.T) {
		h := newHosts(t, 1)
		p := start(t, mount(h.upstream("wss"), h.transport("local_address ::1")))
		for _, kind := range kinds {
			c := p.dial(t)
			c.wantStatus(c.try(kind, "/websocket"), http.StatusBadGateway)
			c.close()
		}
		p.logs.wait(t, 1, `"relay failed"`, `"stage":"dns"`, "lookup relay.example: no address of the family of local_address")
	})
	t.Run("proxy_protocol", func(t *testing.T) {
		h := newHosts(t, 3)
		h.refuse(0)
		preambles := make(chan string, 8)
		preamble := func(conn net.Conn) *wstest.Conn {
			c := wstest.NewConn(conn, false)
			line, _ := c.R.ReadString('\n')
			preambles <- line
			return c
		}
		h.serve(t, 1, func(conn net.Conn) { preamble(conn) })
		h.serve(t, 2, func(conn net.Conn) {
			secure := wstest.NewConn(tls.Server(wstest.Rest{Conn: preamble(conn)}, leaf.ServerConfig()), false)
			req, err := secure.ReadRequest()
			switch {
			case err != nil:
				t.Error(err)
			case req.Header.Get("Upgrade") == "":
				secure.WriteResponse("200 OK", "")
			default:
				secure.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
					"Sec-WebSocket-Accept: "+wstest.SampleAccept)
			}
		})
		p := start(t, mount(h.upstream("wss"), h.transport("proxy_protocol v1"), "fail_duration 0"))
		for _, kind := range kinds {
			c := p.dial(t)
			c.ask(kind, "/websocket")
			port := c.Raw().LocalAddr().(*net.TCPAddr).Port
			want := fmt.Sprintf("PROXY TCP4 127.0.0.1 0.0.0.0 %d 0\r\n", port)
			for range 2 {
				if line := await(t, preambles, "PROXY protocol header"); line != want {
					t.Errorf("%s: a host is told %q, want %q", kind, line, want)
				}
			}
			c.close()
		}
	})
	t.Run("network_proxy", func(t *testing.T) {
		h := newHosts(t, 2)
		h.relay(t, 1)
		h.names.set("relay.example") // which only the forward proxy knows
		h.names.set("proxy.example", h.addrs...)
		through := make(chan string, 8)
		forward := func(conn net.Conn) {
			c := wstest.NewConn(conn, false)
			req, err := c.ReadRequest()
			if err != nil {
				return
			}
			through <- req.Host
			to, err := net.Dial("tcp", h.listeners[1].Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			connectTo(c, to)
		}
		proxies := newHosts(t, 2)
		proxies.refuse(0)
		proxies.serve(t, 1, forward)
		p := start(t, mount(h.upstream("wss"), h.transport(fmt.Sprintf("network_proxy url http://proxy.example:%d", proxies.port))))
		for _, kind := range kinds {
			c := p.dial(t)
			c.ask(kind, "/websocket")
			if host := await(t, through, "CONNECT"); host != fmt.Sprintf("relay.example:%d", h.port) {
				t.Errorf("%s: the forward proxy is asked for %s", kind, host)
			}
			c.close()
		}
		if asked := h.names.asked.Load(); asked != 0 {
			t.Errorf("the relay's name was looked up %d times", asked)
		}
	})
}
