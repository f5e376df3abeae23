package tunnel

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// socketKind is one way in which a leg is connected to its peer.
type socketKind struct {
	name          string
	tls           bool
	setsDeadlines bool
	connect       func(t *testing.T) (leg, peer net.Conn)
}

var socketKinds = []socketKind{
	{name: "tcp", connect: tcpPair},
	{name: "tcp-wrapped", connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		return wrapped{leg.(*net.TCPConn)}, peer
	}},
	{name: "tcp-proxied", connect: proxiedPair},
	{name: "tls-server", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		return shakeHands(t, leg, peer)
	}},
	{name: "tls-client", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		peer, leg = shakeHands(t, peer, leg)
		return leg, peer
	}},
	{name: "tls-1.2", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		return shakeHandsAs(t, leg, peer, &tls.Config{MaxVersion: tls.VersionTLS12})
	}},
	{name: "tls-wrapped", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		return shakeHands(t, wrapped{leg.(*net.TCPConn)}, peer)
	}},
	{name: "tls-proxied", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := proxiedPair(t)
		return shakeHands(t, leg, peer)
	}},
	{name: "tls-deadlines", tls: true, setsDeadlines: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		secure, peer := shakeHands(t, deadlineSetter{leg.(*net.TCPConn)}, peer)
		return layer{secure}, peer
	}},
	{name: "tls-then-wrapped", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		secure, peer := shakeHands(t, leg, peer)
		return &embedding{Conn: secure}, peer
	}},
	{name: "tls-in-tls", tls: true, connect: func(t *testing.T) (net.Conn, net.Conn) {
		leg, peer := tcpPair(t)
		peer, leg = shakeHands(t, peer, leg)
		peer, leg = shakeHands(t, peer, leg)
		return leg, peer
	}},
}

// eachSocket runs test over every kind of connection.
func eachSocket(t *testing.T, test func(t *testing.T, kind socketKind)) {
	for _, kind := range socketKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

func (k socketKind) leg(t *testing.T) (Leg, net.Conn) {
	conn, peer := k.connect(t)
	return ConnLeg(conn, nil, k.setsDeadlines), peer
}

// wrapped hides from a leg that it is over TCP, as listener wrappers do.
type wrapped struct{ *net.TCPConn }

// layer says what it is around.
type layer struct{ net.Conn }

func (c layer) NetConn() net.Conn { return c.Conn }

// deadlineSetter sets a read deadline of its own on each read, as Caddy's read_timeout
// does.
type deadlineSetter struct{ *net.TCPConn }

func (c deadlineSetter) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	return c.TCPConn.Read(p)
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b, err = listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

// proxyHeader is of the PROXY protocol, version 1.
const proxyHeader = "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n"

// proxiedPair has had a PROXY header before all that the peer sends.
func proxiedPair(t *testing.T) (leg, peer net.Conn) {
	t.Helper()
	leg, peer = tcpPair(t)
	if _, err := peer.Write([]byte(proxyHeader)); err != nil {
		t.Fatal(err)
	}
	wrapper := proxyproto.NewConn(leg)
	if wrapper.ProxyHeader() == nil {
		t.Fatal("no PROXY header")
	}
	return wrapper, peer
}

func shakeHands(t *testing.T, server, client net.Conn) (*tls.Conn, *tls.Conn) {
	return shakeHandsAs(t, server, client, &tls.Config{})
}

// shakeHandsAs makes TLS connections of both ends, after config.
func shakeHandsAs(t *testing.T, server, client net.Conn, config *tls.Config) (*tls.Conn, *tls.Conn) {
	t.Helper()
	serverConfig, clientConfig := config.Clone(), config.Clone()
	serverConfig.Certificates = []tls.Certificate{serverLeaf.TLS}
	clientConfig.RootCAs = authority.Pool
	clientConfig.ServerName = "relay.test"
	s, c := tls.Server(server, serverConfig), tls.Client(client, clientConfig)
	failed := make(chan error, 1)
	go func() { failed <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return s, c
}

// The certificate of all servers of these tests.
var (
	authority  = wstest.NewAuthority("tunnel test")
	serverLeaf = authority.Issue("relay.test")
)
