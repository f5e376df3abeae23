package integration_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// deaf is a socket that nothing comes to, as to an address that belongs to somebody else.
type deaf struct{ net.PacketConn }

func (d deaf) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		if _, _, err := d.PacketConn.ReadFrom(p); err != nil {
			return 0, nil, err
		}
	}
}

// itself is a socket that everything comes to.
func itself(c net.PacketConn) net.PacketConn { return c }

// returning is a client over HTTP/3 that sends requests with its first packet from its second
// connection on, once the ticket of the first has come.
func (p *proxy) returning(t *testing.T) (dial func(socket func(net.PacketConn) net.PacketConn) *http3.ClientConn) {
	config := authority.ClientConfig("localhost", "h3")
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	return func(socket func(net.PacketConn) net.PacketConn) *http3.ClientConn {
		t.Helper()
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { udp.Close() })
		to, err := net.ResolveUDPAddr("udp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := quic.DialEarly(testContext(t), socket(udp), to, config, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.CloseWithError(0, "") })
		return new(http3.Transport).NewClientConn(conn)
	}
}

// sendHTTP3 sends the head of a request on a new stream.
func sendHTTP3(t *testing.T, conn *http3.ClientConn, r *http.Request) *http3.RequestStream {
	t.Helper()
	s, err := conn.OpenRequestStream(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "localhost"
	if err = s.SendRequestHeader(r); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAddressOfEarlyData has a client that sends its requests before it has shown that
// anything comes to its address, which a session ticket allows (RFC 8446, section 8). The
// address may be anyone's: it counts nowhere, and nobody is believed for it.
func TestAddressOfEarlyData(t *testing.T) {
	requests := make(chan *http.Request, 1)
	addr := rawRelay(t, func(c *wstest.Conn) {
		req, err := http.ReadRequest(c.R)
		if err != nil {
			return
		}
		requests <- req
		c.WriteResponse("200 OK", "", "Connection: close")
	}).Addr
	p := start(t, mount("wss://"+addr, "max_tunnels_per_client 1").over(http3x))
	p.settleQUIC(t)
	dial := p.returning(t)
	webSocket := func() *http.Request {
		return &http.Request{
			Method: http.MethodConnect, Proto: "websocket", Header: http.Header{"Sec-Websocket-Version": {"13"}},
			URL: &url.URL{Scheme: "https", Host: "localhost", Path: "/websocket", RawQuery: "apiKey=" + secret},
		}
	}
	trace := func() *http.Request {
		return &http.Request{
			Method: http.MethodGet, Header: http.Header{"X-Forwarded-For": {"203.0.113.9"}},
			URL: &url.URL{Scheme: "https", Host: "localhost", Path: "/websocket/get-qualityrtc-config"},
		}
	}

	first := dial(itself)
	if _, err := sendHTTP3(t, first, trace()).ReadResponse(); err != nil { // and the ticket has come
		t.Fatal(err)
	}
	wantLine(t, "request", (await(t, requests, "request")).Header, "X-Forwarded-For", "203.0.113.9, 127.0.0.1")

	early := dial(func(c net.PacketConn) net.PacketConn { return deaf{c} })
	sendHTTP3(t, early, webSocket())
	sendHTTP3(t, early, trace()).Close()
	r := await(t, requests, "request") // there is none of the WebSocket
	wantLine(t, "request", r.Header, "Upgrade", "")
	wantLine(t, "request", r.Header, "Early-Data", "1")
	wantLine(t, "request", r.Header, "X-Forwarded-For", "127.0.0.1")
	client := p.open(t, http1, target, "")
	await(t, requests, "request")
	wantStatus(t, client.Response, http.StatusOK) // the relay's, and not 429
}

// TestEarlyDataToldByProxyProtocol is the same where the server's trusted_proxies decide whom
// to trust, and the relay is told the address ahead of its connection.
func TestEarlyDataToldByProxyProtocol(t *testing.T) {
	preambles := make(chan string, 1)
	addr := rawRelayWith(t, nil, func(c *wstest.Conn) {
		line, err := c.R.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := http.ReadRequest(c.R); err != nil {
			t.Error(err)
			return
		}
		preambles <- line
		c.WriteResponse("200 OK", "", "Connection: close")
	}).Addr
	s := mount("ws://"+addr, "transport http {\nproxy_protocol v1\n}").over(http3x)
	s.server += "\ntrusted_proxies static private_ranges"
	p := start(t, s)
	p.settleQUIC(t)
	dial := p.returning(t)
	request := &http.Request{
		Method: http.MethodGet, Header: http.Header{"X-Forwarded-For": {"203.0.113.9"}},
		URL: &url.URL{Scheme: "https", Host: "localhost", Path: "/websocket/get-qualityrtc-config"},
	}
	if _, err := sendHTTP3(t, dial(itself), request).ReadResponse(); err != nil { // and the ticket has come
		t.Fatal(err)
	}
	if line := await(t, preambles, "request"); !strings.HasPrefix(line, "PROXY TCP4 203.0.113.9 ") {
		t.Errorf("of a trusted peer's client the relay is told %q", line)
	}
	sendHTTP3(t, dial(func(c net.PacketConn) net.PacketConn { return deaf{c} }), request).Close()
	if line := await(t, preambles, "request"); !strings.HasPrefix(line, "PROXY TCP4 127.0.0.1 ") {
		t.Errorf("of early data the relay is told %q", line)
	}
}
