package tunnel

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/pires/go-proxyproto"
)

func TestTLSTest(t *testing.T) {
	if err := testTLS(); err != nil {
		t.Error(err)
	}
}

func BenchmarkTLSTest(b *testing.B) {
	for b.Loop() {
		if err := testTLS(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestChooseEngine(t *testing.T) {
	good := func() error { return nil }
	bad := func() error { return errors.New("other bytes came") }
	for _, c := range []struct {
		variable, version string
		test              func() error
		goroutines        bool
		why               string
	}{
		{"", "go1.26.8", good, false, ""},
		{"", "go1.26", good, false, ""},
		{"on", "go1.26.8", good, false, ""},
		{"", "go1.26.8 X:nosimd", good, false, ""},
		{"off", "go1.26.8", good, true, "WATCHRTC_PROXY_EVENT_LOOPS is off"},
		{"OFF", "go1.26.8", bad, true, "WATCHRTC_PROXY_EVENT_LOOPS is off"},
		{"", "go1.26.8", bad, true, "other bytes came"},
		{"", "go1.27.1", good, false, "go1.27.1 has not been tested"},
		{"", "go1.260", good, false, "go1.260 has not been tested"},
		{"", "devel go1.28-abc", good, false, "devel go1.28-abc has not been tested"},
	} {
		got := chooseFor(c.variable, c.version, c.test)
		if !haveLoops {
			c.goroutines = true
		} else if c.why == "" && got.why != "" {
			t.Errorf("%q, %s: why %q", c.variable, c.version, got.why)
		}
		if (got.name == Goroutines) != c.goroutines || !strings.Contains(got.why, c.why) {
			t.Errorf("%q, %s: %+v, want goroutines: %v, %q", c.variable, c.version, got, c.goroutines, c.why)
		}
		if got.tls == (c.why != "" && c.goroutines && haveLoops) {
			t.Errorf("%q, %s: reaches into crypto/tls: %v", c.variable, c.version, got.tls)
		}
	}
}

// A crypto/tls that keeps to the names and types but not to their meaning is found
// out.
func TestTLSTestFindsOut(t *testing.T) {
	server, sender, err := connectInMemory()
	if err != nil {
		t.Fatal(err)
	}
	test := &tlsTest{server: server, sender: sender, wire: new(memoryWire)}
	*netConnOf(server) = test.wire
	want := test.message(100)
	wrong := append([]byte("x"), want[1:]...)
	test.wire.in.Write(sender.record(recordApplicationData, wrong))
	if err := test.expect(want, nil); err == nil {
		t.Error("other bytes pass")
	}
	test.wire.in.Write(sender.record(recordApplicationData, append(want, 1)))
	if err := test.expect(want, nil); err == nil {
		t.Error("a byte more passes")
	}
}

// embedding is how listener wrappers are made that offer nothing but a net.Conn:
// Caddy's http_redirect, for one.
type embedding struct {
	net.Conn
	closed bool
}

func (c *embedding) Close() error {
	c.closed = true
	return c.Conn.Close()
}

func TestInnermostConn(t *testing.T) {
	tcp, _ := tcpPair(t)
	for name, conn := range map[string]net.Conn{
		"itself": tcp, "embedded": &embedding{Conn: tcp}, "embedded twice": &embedding{Conn: &embedding{Conn: tcp}},
		"embedded TCP": wrapped{tcp.(*net.TCPConn)}, "TLS": tls.Client(&embedding{Conn: tcp}, nil),
		"PROXY": proxyproto.NewConn(&embedding{Conn: tcp}), "unexported": hiding{&embedding{Conn: tcp}},
	} {
		if got := innermost(conn); got != tcp {
			t.Errorf("%s: %T", name, got)
		}
	}
	pipe, other := net.Pipe()
	defer other.Close()
	defer pipe.Close()
	if got := innermost(&embedding{Conn: pipe}); got != pipe {
		t.Errorf("a pipe: %T", got)
	}
}

// hiding is made as some of Caddy's wrappers are: of an unexported type that embeds.
type hiding struct{ *embedding }

func TestTLSOf(t *testing.T) {
	tcp, _ := tcpPair(t)
	secure := tls.Client(tcp, nil)
	for name, conn := range map[string]net.Conn{
		"itself": secure, "layer": layer{secure}, "embedded": &embedding{Conn: secure}, "twice": hiding{&embedding{Conn: secure}},
		"embedded TLS": struct{ *tls.Conn }{secure}, "PROXY": proxyproto.NewConn(secure),
	} {
		if got := tlsOf(conn); got != secure {
			t.Errorf("%s: %p", name, got)
		}
	}
	for name, conn := range map[string]net.Conn{
		"without": tcp, "within": tls.Client(&embedding{Conn: tls.Client(layer{tcp}, nil)}, nil),
	} {
		if got := innermost(BelowTLS(conn)); got != tcp || tlsOf(BelowTLS(conn)) != nil {
			t.Errorf("TLS %s: %T is below", name, BelowTLS(conn))
		}
	}
}

// Behind a wrapper without SetLinger and CloseWrite, ends are passed on all the same,
// and the wrapper hears of the end.
func TestEndsBehindWrapper(t *testing.T) {
	for _, where := range []string{"without TLS", "below TLS", "around TLS"} {
		leg, client := tcpPair(t)
		if where == "around TLS" {
			leg, client = shakeHands(t, leg, client)
		}
		wrapper := &embedding{Conn: leg}
		leg = wrapper
		if where == "below TLS" {
			leg, client = shakeHands(t, leg, client)
		}
		relayLeg, relay := tcpPair(t)
		r := newFixture(t, 0)
		tunnel := r.lease.Open(Info{}, ConnLeg(leg, nil, false), ConnLeg(relayLeg, nil, false), 0)
		pass(t, client, relay, []byte("hello"))
		reset(relay)
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the client sees %v, want a reset", where, err)
		}
		tunnel.Wait()
		if !wrapper.closed {
			t.Errorf("%s: the wrapper was not closed", where)
		}
	}
}

// httpRedirectConn looks like Caddy's.
type httpRedirectConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *httpRedirectConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func TestPassesOn(t *testing.T) {
	tcp, _ := tcpPair(t)
	for _, c := range []struct {
		conn net.Conn
		want bool
	}{
		{tcp, false}, {&embedding{Conn: tcp}, false}, {proxyproto.NewConn(tcp), true},
		{&httpRedirectConn{Conn: tcp}, false}, // of another package
	} {
		if passesOn(c.conn) != c.want {
			t.Errorf("%T passes on: %v", c.conn, !c.want)
		}
	}
}

// The relay may ask for another handshake with TLS 1.2, if the transport allows it.
// That blocks in the middle of a read, so such a leg does not belong in a loop.
func TestRenegotiatingLegGetsGoroutines(t *testing.T) {
	leg, peer := tcpPair(t)
	relay, relayLeg := shakeHandsAs(t, peer, leg, &tls.Config{
		MaxVersion: tls.VersionTLS12, Renegotiation: tls.RenegotiateFreelyAsClient,
	})
	clientLeg, client := tcpPair(t)
	r := newFixture(t, 0)
	tunnel := r.lease.Open(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	if _, ok := tunnel.engine.(*goroutines); !ok {
		t.Errorf("the engine is a %T", tunnel.engine)
	}
	pass(t, client, relay, pattern(1000))
	pass(t, relay, client, pattern(1000))
	client.Close()
	if got, err := io.ReadAll(relay); err != nil || !bytes.Equal(got, nil) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	relay.Close()
	tunnel.Wait()
}
