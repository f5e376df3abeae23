package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestEnds has each end of a tunnel end in order, and be reset. The other one sees that
// by TLS's close_notify, without which the end is a truncation (RFC 8446, section 6.1),
// whatever wraps the connections: options of the transport, or listener wrappers.
func TestEnds(t *testing.T) {
	const (
		timeouts  = "read_timeout 1m\nwrite_timeout 1m"
		aroundTLS = "listener_wrappers {\nproxy_protocol {\nallow 127.0.0.1/32\n}\n}" // TLS comes first unless it is named
	)
	header := from("192.0.2.1")
	for _, test := range []struct {
		name, transport, wrappers string
		beforeTLS, inTLS          string // what the client sends first
	}{
		{name: "nothing"},
		{name: "read_timeout", transport: "read_timeout 1m"},
		{name: "write_timeout", transport: "write_timeout 1m"},
		{name: "both timeouts", transport: timeouts},
		{name: "proxy_protocol", wrappers: proxyProtocol, beforeTLS: header},
		{name: "http_redirect", wrappers: "listener_wrappers {\nhttp_redirect\ntls\n}"},
		{name: "wrapped TLS", wrappers: aroundTLS, inTLS: header},
		{name: "both timeouts, wrapped TLS", transport: timeouts, wrappers: aroundTLS, inTLS: header},
	} {
		t.Run(test.name, func(t *testing.T) {
			relay := rawRelayWith(t, nil, nil)
			s := mount("wss://"+relay.Addr, transport(test.transport))
			s.server = test.wrappers
			p := start(t, s)
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				open := func() (client, relayEnd *watched) {
					return openWatched(t, p, relay, version, test.beforeTLS, test.inTLS)
				}
				for _, byRelay := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, by the relay %v", tls.VersionName(version), byRelay), func(t *testing.T) {
						wantOrderly(t, byRelay, open)
						wantAbnormal(t, byRelay, open)
					})
				}
			}
		})
	}
}

func wantOrderly(t *testing.T, byRelay bool, open func() (client, relay *watched)) {
	from, to := open()
	if byRelay {
		from, to = to, from
	}
	for _, leg := range [][2]*watched{{from, to}, {to, from}} {
		if err := leg[0].CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := leg[1].ReadToEnd(); err != nil || !leg[1].records.endInAlert() {
			t.Errorf("no close_notify came, but %v", err)
		}
	}
}

func wantAbnormal(t *testing.T, byRelay bool, open func() (client, relay *watched)) {
	from, to := open()
	if byRelay {
		from, to = to, from
	}
	if err := from.Reset(); err != nil {
		t.Error(err)
	}
	if _, err := to.ReadToEnd(); err == nil || isTimeout(err) || to.records.endInAlert() {
		t.Errorf("a reset came as %v, with close_notify: %v", err, to.records.endInAlert())
	}
}

// watched is an end of a tunnel whose TLS records are looked at.
type watched struct {
	*wstest.Conn
	records *recorded
}

// openWatched opens a tunnel with a version of TLS on both legs, and has a message go
// each way.
func openWatched(t *testing.T, p *proxy, relay *wstest.Relay, version uint16, beforeTLS, inTLS string) (client, relayEnd *watched) {
	t.Helper()
	raw, err := net.Dial(p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(raw, beforeTLS); err != nil {
		t.Fatal(err)
	}
	config := authority.ClientConfig("localhost", "http/1.1")
	config.MaxVersion = version
	client = watch(raw, true, func(conn net.Conn) net.Conn { return tls.Client(conn, config) })
	accepted := make(chan *watched, 1)
	go func() {
		config := leaf.ServerConfig("http/1.1")
		config.MaxVersion = version
		end := watch((<-relay.Conns).Raw(), false, func(conn net.Conn) net.Conn { return tls.Server(conn, config) })
		if _, err := end.AcceptHandshakeWith(wire(false, wstest.Message("hello"))); err != nil {
			t.Error(err)
		}
		accepted <- end
	}()
	if err := client.WriteText(inTLS); err != nil {
		t.Fatal(err)
	}
	response, err := client.Handshake("/websocket")
	if response == nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(err)
	}
	relayEnd = await(t, accepted, "handshake")
	expect(t, client.R, wire(false, wstest.Message("hello")))
	text := wire(true, wstest.Message("hello"))
	if err := client.WriteText(text); err != nil {
		t.Fatal(err)
	}
	expect(t, relayEnd.R, text)
	return client, relayEnd
}

func watch(conn net.Conn, client bool, secure func(net.Conn) net.Conn) *watched {
	records := &recorded{Conn: conn}
	return &watched{wstest.NewConn(secure(records), client), records}
}

// recorded keeps what is read from a connection, which is TLS.
type recorded struct {
	net.Conn
	mu  sync.Mutex // protects what follows
	got []byte
}

func (r *recorded) NetConn() net.Conn { return r.Conn }

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, p[:n]...)
	return n, err
}

// endInAlert reports whether the last record is an alert. TLS 1.2 shows the type of each
// record, TLS 1.3 its length alone: two bytes, one for the type, and 16 that protect them
// (RFC 8446, section 5.2). Nothing else in these tests is as short.
func (r *recorded) endInAlert() bool {
	const header, alert, alertSize = 5, 21, 2 + 1 + 16
	r.mu.Lock()
	defer r.mu.Unlock()
	var kind byte
	var size int
	for rest := r.got; len(rest) >= header; {
		kind, size = rest[0], int(rest[3])<<8|int(rest[4])
		rest = rest[min(header+size, len(rest)):]
	}
	return kind == alert || size == alertSize
}
