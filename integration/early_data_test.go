package integration_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
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
	config := authority.ClientConfig("localhost", "h3")
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	dial := func(socket func(net.PacketConn) net.PacketConn) *http3.ClientConn {
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

	first := dial(func(c net.PacketConn) net.PacketConn { return c })
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
