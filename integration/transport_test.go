package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestRelayName shows what a relay with a name sees: SNI and Host, whatever the
// client's Host is. The name is resolved anew for each connection, and TLS sessions
// are resumed.
func TestRelayName(t *testing.T) {
	names := newNameServer(t)
	relay := newRelay(t, nil)
	_, port, _ := net.SplitHostPort(relay.Listener.Addr().String())
	p := start(t, mount("wss://relay.example:"+port, names.transport()))
	for i := range 3 {
		c := p.dial(t)
		c.ask("WebSocket", "/websocket")
		seen := relay.next(t)
		c.close()
		if seen.Host != "relay.example:"+port || seen.TLS.ServerName != "relay.example" {
			t.Errorf("Host %s, SNI %s", seen.Host, seen.TLS.ServerName)
		}
		if resumed := seen.TLS.DidResume; resumed != (i > 0) {
			t.Errorf("handshake %d: resumed %v", i, resumed)
		}
		if asked := names.asked.Load(); asked != int64(i+1) {
			t.Errorf("the name was resolved %d times for %d connections", asked, i+1)
		}
	}
	c := p.dial(t)
	c.ask("POST", "/websocket/trace")
	if seen := relay.next(t); seen.Host != "relay.example:"+port || seen.TLS.ServerName != "relay.example" {
		t.Errorf("POST: Host %s, SNI %s", seen.Host, seen.TLS.ServerName)
	}
}

// TestRelayOfAnotherScript has a relay whose name is not in ASCII: both kinds of traffic
// find it by the name that DNS has for it.
func TestRelayOfAnotherScript(t *testing.T) {
	names := newNameServer(t)
	names.set("xn--bcher-kva.example", "127.0.0.1")
	relay := newRelay(t, nil)
	_, port, _ := net.SplitHostPort(relay.Listener.Addr().String())
	p := start(t, mount("wss://b\u00fccher.example:"+port, names.transport("tls_server_name relay.example")))
	for _, kind := range kinds {
		c := p.dial(t)
		c.ask(kind, "/websocket")
		if seen := relay.next(t); seen.Host != "xn--bcher-kva.example:"+port {
			t.Errorf("%s: Host %s", kind, seen.Host)
		}
		c.close()
	}
}

// TestRelayWithHTTP2 has a relay that prefers HTTP/2: WebSockets take HTTP/1.1 all
// the same.
func TestRelayWithHTTP2(t *testing.T) {
	relay := newRelay(t, nil, withHTTP2)
	p := start(t, mount(relay.URL, ""))
	ws := p.webSocket(t, "/websocket")
	echo(t, ws, []byte("hello"))
	if seen := relay.next(t); seen.ProtoMajor != 1 {
		t.Errorf("the relay sees %s", seen.Proto)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	c := p.dial(t)
	c.request("POST", "/websocket/trace", "Transfer-Encoding: chunked")
	c.write("2\r\n{}\r\n0\r\n\r\n")
	c.wantStatus(c.response("POST"), http.StatusOK)
	if seen := relay.next(t); seen.ProtoMajor != 2 {
		t.Errorf("the relay sees a request in chunks over %s", seen.Proto)
	}
}

// TestConnectionsAreKept shows that requests share a connection, and that each
// WebSocket has its own.
func TestConnectionsAreKept(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	from := make(map[string]int)
	for range 3 {
		c := p.dial(t)
		c.ask("POST", "/websocket/trace")
		from[relay.next(t).RemoteAddr]++
		c.close()
	}
	if len(from) != 1 {
		t.Errorf("three requests took the connections %v", from)
	}
	for range 2 {
		c := p.dial(t)
		c.ask("WebSocket", "/websocket")
		from[relay.next(t).RemoteAddr]++
	}
	if len(from) != 3 {
		t.Errorf("three requests and two WebSockets took the connections %v", from)
	}
}

// TestTransportOptions has options of Caddy's transport that change which way a
// request takes through this module.
func TestTransportOptions(t *testing.T) {
	clientCertificate := func(server *httptest.Server) {
		server.TLS.ClientAuth, server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, authority.Pool
	}
	for _, test := range []struct {
		name, options string
		relay         []func(*httptest.Server)
	}{
		{"no options", "", nil},
		{"read and write timeout", "read_timeout 1h\nwrite_timeout 1h", nil},
		{"response header timeout", "response_header_timeout 1h", nil},
		{"HTTP/1.1", "versions 1.1", []func(*httptest.Server){withHTTP2}},
		{"HTTP/2", "versions 2", []func(*httptest.Server){withHTTP2}},
		{"no keep-alive", "keepalive off", nil},
		{"compression", "compression on", nil},
		{"connection limit", "max_conns_per_host 4", nil},
		{"server name", "tls_server_name relay.example", nil},
		{"client certificate", "tls_client_auth " + proxyFiles.Cert + " " + proxyFiles.Key, []func(*httptest.Server){clientCertificate}},
		{"local address", "local_address 127.0.0.1", nil},
		{"no network proxy", "network_proxy none", nil},
		{"small buffers", "read_buffer 1KiB\nwrite_buffer 1KiB\nmax_response_header 4KiB", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			relay := newRelay(t, nil, test.relay...)
			p := start(t, mount(relay.URL, transport(test.options)))
			ws := p.webSocket(t, "/websocket?apiKey=k")
			relay.next(t)
			echo(t, ws, randomBytes(100_000))
			if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
			c := p.dial(t)
			c.ask("POST", "/websocket/trace")
			relay.next(t)
			c.close()
		})
	}
}

// TestProxyProtocolUpstream tells the relay the client's address ahead of TLS. A
// connection that does so is not for another client.
func TestProxyProtocolUpstream(t *testing.T) {
	preambles := make(chan string, 8)
	addr := rawRelayWith(t, nil, func(c *wstest.Conn) {
		line, err := c.R.ReadString('\n')
		if err != nil {
			t.Error(err)
			return
		}
		preambles <- line
		secure := wstest.NewConn(tls.Server(wstest.Rest{Conn: c}, leaf.ServerConfig()), false)
		req, err := secure.ReadRequest()
		if err != nil {
			t.Error(err)
			return
		}
		if req.Header.Get("Upgrade") == "" {
			secure.WriteResponse("200 OK", "")
		} else {
			secure.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: "+wstest.SampleAccept)
		}
		secure.ReadToEnd()
	}).Addr
	for _, test := range []struct{ name, options, peer, chain, want string }{
		{"IPv4", "", "198.51.100.7", "", "TCP4 198.51.100.7 0.0.0.0 40000 0"},
		{"IPv6", "", "2001:db8::77", "", "TCP6 2001:db8::77 :: 40000 0"},
		{"untrusted", "", "198.51.100.7", "203.0.113.9", "TCP4 198.51.100.7 0.0.0.0 40000 0"},
		{"the handler's trust", "trusted_proxies 198.51.100.0/24", "198.51.100.7", "203.0.113.9", "TCP4 203.0.113.9 0.0.0.0 0 0"},
		{"private ranges", "", "10.1.2.3", "203.0.113.9", "TCP4 203.0.113.9 0.0.0.0 0 0"},
		{"masked", "mask_client_ip", "198.51.100.7", "", "TCP4 198.51.100.0 0.0.0.0 0 0"},
		{"masked, trusted", "mask_client_ip", "10.1.2.3", "2001:db8:1:2::3", "TCP6 2001:db8:1:: :: 0 0"},
	} {
		s := mount("wss://"+addr, transport("proxy_protocol v1")+"\n"+test.options)
		s.server = proxyProtocol
		p := start(t, s)
		for _, kind := range kinds {
			c := p.dial(t, from(test.peer))
			c.ask(kind, "/websocket", "X-Forwarded-For: "+test.chain)
			if line := <-preambles; line != "PROXY "+test.want+"\r\n" {
				t.Errorf("%s, %s: the relay is told %q, want %q", test.name, kind, line, test.want)
			}
			c.close()
		}
	}
}

// withProxyProtocol has the server take what is said ahead of each connection for where it
// comes from.
func withProxyProtocol(server *httptest.Server) {
	server.Listener = &proxyproto.Listener{Listener: server.Listener, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
		return proxyproto.REQUIRE, nil
	}}
}

// TestProxyProtocolWithoutAddress has a unix socket's peer, of which there is no
// address to tell.
func TestProxyProtocolWithoutAddress(t *testing.T) {
	relay := newRelay(t, nil, withProxyProtocol)
	dir, err := os.MkdirTemp("", "w") // t.TempDir may be too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := mount(relay.URL, transport("proxy_protocol v2"))
	s.body += "\nbind 127.0.0.1 unix/" + filepath.Join(dir, "s")
	p := start(t, s)
	p.network, p.addr = "unix", filepath.Join(dir, "s")
	for _, kind := range kinds {
		c := p.dial(t)
		c.ask(kind, "/websocket")
		if seen := relay.next(t); seen.RemoteAddr != "0.0.0.0:0" {
			t.Errorf("%s: the relay is told %s", kind, seen.RemoteAddr)
		}
		c.close()
	}
}

// TestProxyProtocolOverHTTP2 has many clients at once upload to a relay that speaks
// HTTP/2. What is said ahead of a connection holds for each request that it carries.
func TestProxyProtocolOverHTTP2(t *testing.T) {
	handler := func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		told, _, _ := net.SplitHostPort(r.RemoteAddr)
		if client := r.Header.Get("X-Forwarded-For"); told != client || r.ProtoMajor != 2 {
			t.Errorf("the relay is told %s of a request of %s over %s", told, client, r.Proto)
		}
	}
	for name, relay := range map[string]func(t *testing.T) site{
		"TLS": func(t *testing.T) site {
			server := serve(t, handler, withProxyProtocol, withHTTP2)
			return mount("wss://"+server.Listener.Addr().String(), transport("proxy_protocol v1"))
		},
		"h2c": func(t *testing.T) site {
			server := httptest.NewUnstartedServer(http.HandlerFunc(handler))
			withProxyProtocol(server)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			t.Cleanup(server.Close)
			return mount("ws://"+server.Listener.Addr().String(), "transport http {\nproxy_protocol v1\nversions h2c 2\n}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := relay(t)
			s.server = proxyProtocol
			p := start(t, s)
			var clients sync.WaitGroup
			for i := range 16 {
				clients.Go(func() {
					for j := range 20 {
						c, err := p.tryDial(t, from(fmt.Sprintf("198.51.%d.%d", i, j)))
						if err != nil {
							t.Error(err)
							return
						}
						c.WriteRequest("POST", "/websocket/trace", "Content-Length: 2")
						c.WriteText("{}")
						response, err := c.ReadResponse("POST")
						if err != nil || response.StatusCode != http.StatusOK {
							t.Errorf("%v, %v", response, err)
						}
						c.close()
					}
				})
			}
			clients.Wait()
		})
	}
}
