package tunnel

import (
	"bytes"
	"crypto/tls"
	"net"
	"reflect"
	"runtime"
	"testing"
	"weak"
)

// crypto/tls still looks as leg_tls.go takes it to look. If this fails after an
// update of Go, tunnels work but cost more memory.
func TestTLSLayout(t *testing.T) {
	if !layout.ok {
		t.Fatalf("tls.Conn has changed: %+v", layout)
	}
	config := new(tls.Config)
	if c := tls.Client(nil, config); *configOf(c) != config {
		t.Error("the configuration is not where it should be")
	}
	leg, peer := tcpPair(t)
	server, client := shakeHands(t, leg, peer)
	if _, err := client.Write(pattern(1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := inputOf(server).Len(); n != 999 {
		t.Errorf("%d bytes of plaintext are left, want 999", n)
	}
}

func TestTLSLayoutUnknown(t *testing.T) {
	field := func(name string, of reflect.Type) reflect.StructField {
		return reflect.StructField{Name: name, PkgPath: "crypto/tls", Type: of}
	}
	changed := reflect.StructOf([]reflect.StructField{
		field("rawInput", reflect.TypeFor[[]byte]()), // was a bytes.Buffer
		field("input", reflect.TypeFor[bytes.Reader]()),
		field("hand", reflect.TypeFor[bytes.Buffer]()),
		field("config", reflect.TypeFor[*tls.Config]()),
		field("conn", reflect.TypeFor[net.Conn]()),
	})
	for _, conn := range []reflect.Type{reflect.TypeFor[struct{}](), changed} {
		if findLayout(conn).ok {
			t.Errorf("%v passes for a tls.Conn", conn)
		}
	}
}

// Which source a connection gets decides what it costs to wait.
func TestNewSource(t *testing.T) {
	tcp, peer := tcpPair(t)
	server, client := shakeHands(t, tcp, peer)
	wrappedTCP, wrappedPeer := tcpPair(t)
	wrappedServer, _ := shakeHands(t, wrapped{wrappedTCP.(*net.TCPConn)}, wrappedPeer)
	pipe, _ := net.Pipe()
	for _, c := range []struct {
		name          string
		conn          net.Conn
		setsDeadlines bool
		want          source
	}{
		{"TCP", tcp, false, bufferedSource{}},
		{"TLS server", server, false, &wakeTLSSource{}},
		{"TLS client", client, false, &wakeTLSSource{}},
		{"TLS over something else", wrappedServer, false, &wakeTLSSource{}},
		{"TLS over deadlines", wrappedServer, true, bufferedSource{}},
		{"something else", pipe, false, bufferedSource{}},
		{"something else over TLS", &embedding{Conn: server}, false, bufferedSource{}},
		{"TLS before its handshake", tls.Client(tcp, new(tls.Config)), false, &wakeTLSSource{}},
	} {
		got := newSource(c.conn, c.setsDeadlines)
		if reflect.TypeOf(got) != reflect.TypeOf(c.want) && runtime.GOOS == "linux" {
			t.Errorf("%s: %T, want %T", c.name, got, c.want)
		}
	}
}

// A tunnel's connections keep no configuration alive, and work without one.
func TestTLSReleasesConfig(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			a, b := tcpPair(t)
			config := &tls.Config{MaxVersion: version}
			s, c := shakeHandsAs(t, a, b, config)
			configs := []weak.Pointer[tls.Config]{weak.Make(*configOf(s)), weak.Make(*configOf(c))}
			server, client := ConnLeg(s, nil, false), ConnLeg(&embedding{Conn: c}, nil, false)
			for i, p := range configs {
				if !collected(p) {
					t.Errorf("configuration %d is still there", i)
				}
			}
			for _, size := range legSizes {
				go server.Write(pattern(size))
				if got := receiveAll(t, client, size); !bytes.Equal(got, pattern(size)) {
					t.Fatalf("%d bytes did not arrive as they were sent", size)
				}
			}
			runtime.KeepAlive(server)
		})
	}
}

// collected gives the collector some rounds: finalizers and pools need more than
// one.
func collected[T any](p weak.Pointer[T]) bool {
	for range 10 {
		runtime.GC()
		if p.Value() == nil {
			return true
		}
	}
	return false
}

// A session ticket that arrives after the handshake is no trouble.
func TestTLSTicketAfterHandshake(t *testing.T) {
	a, b := tcpPair(t)
	cache := tls.NewLRUClientSessionCache(0)
	server, client := shakeHandsAs(t, a, b, &tls.Config{ClientSessionCache: cache})
	leg := ConnLeg(client, nil, false)
	go server.Write([]byte("hello"))
	if got := receiveAll(t, leg, 5); string(got) != "hello" {
		t.Errorf("received %q", got)
	}
}

// Records that come in pieces are put together.
func TestTLSRecordsInPieces(t *testing.T) {
	for _, wrap := range []func(net.Conn) net.Conn{
		func(c net.Conn) net.Conn { return c },
		func(c net.Conn) net.Conn { return wrapped{c.(*net.TCPConn)} },
	} {
		conn, peer := tcpPair(t)
		server, client := shakeHands(t, wrap(conn), dripping{peer})
		leg := ConnLeg(server, nil, false)
		for _, size := range legSizes[:9] {
			go client.Write(pattern(size))
			if got := receiveAll(t, leg, size); !bytes.Equal(got, pattern(size)) {
				t.Fatalf("%d bytes did not arrive as they were sent", size)
			}
		}
	}
}

// dripping writes a few bytes at a time.
type dripping struct{ net.Conn }

func (c dripping) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = c.Conn.Write(p[n:min(n+7, len(p))])
		n += m
	}
	return n, err
}
