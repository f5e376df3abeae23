//go:build unix

package reloadtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestStopStreams stops the process while WebSockets over HTTP/1.1, HTTP/2 and
// HTTP/3 are open and no grace_period is set: Caddy then waits for streams as long
// as they live, and for their connections as long as the clients keep these.
func TestStopStreams(t *testing.T) {
	t.Parallel()
	const window = 4 * time.Second
	for _, way := range []struct {
		name string
		stop func(*proxy)
	}{
		{"SIGTERM", func(p *proxy) { p.signal(syscall.SIGTERM) }},
		{"caddy stop", func(p *proxy) { p.run("stop", "--address", "unix/"+p.sock()) }},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, servers: "protocols h1 h2 h3"}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String(), "GODEBUG=http2xconnect=1")

			peers := open(t, cfg.addr, 20, "")
			// Several streams share a connection, as in a browser.
			for range 3 {
				h2 := dialHTTP2(t, cfg.addr)
				_, h3 := dialHTTP3(t, cfg.addr)
				for range 5 {
					peers = append(peers, h2.open(t, ""), openHTTP3(t, h3, ""))
				}
			}
			sendAll(t, peers)

			// A reload that changes nothing for the tunnels leaves the old server
			// waiting for its streams.
			cfg.version++
			p.load(cfg.String())
			sendAll(t, peers)

			begun := time.Now()
			way.stop(p)
			checkStopped(t, p, begun, window)
			for i, peer := range peers {
				e, ok1 := peer.awaitEnd(patience)
				r, ok2 := relay.leg(peer.id).awaitEnd(patience)
				if !ok1 || !ok2 || e.code != wstest.GoingAway || e.err != nil || r.code != wstest.GoingAway || r.err != nil {
					t.Errorf("tunnel %d: client %v, relay %v", i, e, r)
				}
			}
		})
	}
}

// http2Conn is a client's HTTP/2 connection as bare frames, since net/http's has no
// extended CONNECT. It does all that is asked of a client, except that it ignores
// GOAWAY and keeps its connection.
type http2Conn struct {
	*tls.Conn
	done  chan struct{}
	pause sync.Mutex // whoever holds it keeps the connection from reading

	mu      sync.Mutex // protects what follows
	framer  *http2.Framer
	next    uint32
	streams map[uint32]*http2Stream
}

type http2Stream struct {
	conn   *http2Conn
	id     uint32
	status chan string
	*io.PipeReader
	body *io.PipeWriter
}

func dialHTTP2(t testing.TB, addr string) *http2Conn {
	t.Helper()
	config := clientTLS()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	c := &http2Conn{Conn: conn, framer: http2.NewFramer(conn, conn), next: 1,
		streams: make(map[uint32]*http2Stream), done: make(chan struct{})}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	fmt.Fprint(conn, http2.ClientPreface)
	if err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 24}); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteWindowUpdate(0, 1<<24); err != nil {
		t.Fatal(err)
	}
	go c.read()
	t.Cleanup(c.close)
	return c
}

// close ends the connection, and read, which may be about to hand a frame to a stream
// that nobody reads.
func (c *http2Conn) close() {
	c.Conn.Close()
	c.mu.Lock()
	for _, s := range c.streams {
		s.PipeReader.Close()
	}
	c.mu.Unlock()
	<-c.done
}

func (c *http2Conn) read() {
	defer close(c.done)
	for {
		c.pause.Lock()
		c.pause.Unlock() //lint:ignore SA2001 held by whoever wants this to wait
		f, err := c.framer.ReadFrame()
		c.mu.Lock()
		if err != nil {
			for _, s := range c.streams {
				s.body.CloseWithError(io.ErrUnexpectedEOF)
			}
			c.mu.Unlock()
			return
		}
		s := c.streams[f.Header().StreamID]
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = c.framer.WritePing(true, f.Data)
			}
		}
		c.mu.Unlock()
		if s == nil {
			continue
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			s.status <- f.PseudoValue("status")
		case *http2.DataFrame:
			s.body.Write(bytes.Clone(f.Data()))
			if f.StreamEnded() {
				s.body.Close()
			}
		case *http2.RSTStreamFrame:
			s.body.CloseWithError(fmt.Errorf("RST_STREAM %v", f.ErrCode))
		}
	}
}

// stopReading lets no more than one frame be read.
func (c *http2Conn) stopReading(t testing.TB) {
	c.pause.Lock()
	t.Cleanup(c.pause.Unlock)
}

// open opens a WebSocket on a new stream.
func (c *http2Conn) open(t testing.TB, options string) *peer {
	t.Helper()
	s, id := c.request(t, options)
	if status := <-s.status; status != "200" {
		t.Fatalf("status %q over HTTP/2", status)
	}
	p := newPeer(s, s, id, true)
	go p.run(ignore)
	return p
}

// request asks for a WebSocket on a new stream (RFC 8441, section 5).
func (c *http2Conn) request(t testing.TB, options string) (*http2Stream, uint64) {
	t.Helper()
	id := ids.Add(1)
	return c.send(t, [][2]string{
		{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", "localhost"},
		{":path", fmt.Sprintf("/websocket?sessionId=%d%s", id, options)}, {"sec-websocket-version", "13"},
	}, false), id
}

// send sends the fields of a request on a new stream.
func (c *http2Conn) send(t testing.TB, fields [][2]string, last bool) *http2Stream {
	t.Helper()
	s := &http2Stream{conn: c, status: make(chan string, 1)}
	s.PipeReader, s.body = io.Pipe()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range fields {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	c.mu.Lock()
	s.id = c.next
	c.next += 2
	c.streams[s.id] = s
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: last})
	c.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *http2Stream) Write(p []byte) (int, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return len(p), s.conn.framer.WriteData(s.id, false, p)
}

func (s *http2Stream) Close() error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.conn.framer.WriteData(s.id, true, nil)
}

// dialHTTP3 returns the socket too, with which a client can vanish.
func dialHTTP3(t testing.TB, addr string) (net.PacketConn, *http3.ClientConn) {
	t.Helper()
	udp, conn := dialQUIC(t, addr)
	return udp, new(http3.Transport).NewClientConn(conn)
}

// dialQUIC connects for HTTP/3 and sends nothing of it.
func dialQUIC(t testing.TB, addr string) (net.PacketConn, *quic.Conn) {
	t.Helper()
	config := clientTLS()
	config.NextProtos = []string{http3.NextProtoH3}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := quic.Dial(ctx, udp, to, config, &quic.Config{KeepAlivePeriod: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseWithError(0, "") })
	return udp, conn
}

// openHTTP3 opens a WebSocket on a new stream.
func openHTTP3(t testing.TB, conn *http3.ClientConn, options string) *peer {
	t.Helper()
	p := requestHTTP3(t, conn, options)
	go p.run(ignore)
	return p
}

// requestHTTP3 opens a WebSocket on a new stream (RFC 9220), which nobody reads.
func requestHTTP3(t testing.TB, conn *http3.ClientConn, options string) *peer {
	t.Helper()
	<-conn.ReceivedSettings()
	if !conn.Settings().EnableExtendedConnect {
		t.Fatal("the server does not support extended CONNECT")
	}
	s, err := conn.OpenRequestStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	id := ids.Add(1)
	err = s.SendRequestHeader(&http.Request{
		Method: http.MethodConnect, Proto: "websocket", Host: "localhost",
		URL:    &url.URL{Scheme: "https", Host: "localhost", Path: "/websocket", RawQuery: fmt.Sprintf("sessionId=%d%s", id, options)},
		Header: http.Header{"Sec-Websocket-Version": {"13"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %s over HTTP/3", response.Status)
	}
	return newPeer(s, s, id, true)
}

// TestStopVanished: clients over HTTP/2 and HTTP/3 that are gone, or have stopped
// reading, do not hold up the stop either.
func TestStopVanished(t *testing.T) {
	t.Parallel()
	const window = time.Second
	for name, vanish := range map[string]func(t *testing.T, addr string, relay *relay){
		"HTTP2 idle": func(t *testing.T, addr string, relay *relay) {
			c := dialHTTP2(t, addr)
			sendAll(t, []*peer{c.open(t, "")})
			c.stopReading(t)
		},
		"HTTP2 stalled": func(t *testing.T, addr string, relay *relay) {
			c := dialHTTP2(t, addr)
			c.stopReading(t)
			_, id := c.request(t, "&flood=1")
			awaitStall(t, relay.await(id))
		},
		"HTTP3 idle": func(t *testing.T, addr string, relay *relay) {
			udp, conn := dialHTTP3(t, addr)
			sendAll(t, []*peer{openHTTP3(t, conn, "")})
			udp.Close()
		},
		"HTTP3 stalled": func(t *testing.T, addr string, relay *relay) {
			_, conn := dialHTTP3(t, addr)
			p := requestHTTP3(t, conn, "&flood=1")
			awaitStall(t, relay.await(p.id))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, servers: "protocols h1 h2 h3"}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String(), "GODEBUG=http2xconnect=1")
			vanish(t, cfg.addr, relay)

			begun := time.Now()
			p.signal(syscall.SIGTERM)
			checkStopped(t, p, begun, window)
		})
	}
}

// TestStopQuietHTTP3: nor does an HTTP/3 client that has asked this module for nothing,
// and keeps its connection, which GOAWAY asks it to close.
func TestStopQuietHTTP3(t *testing.T) {
	t.Parallel()
	const window = time.Second
	for name, reload := range map[string]func(p *proxy, cfg config){
		"the server that runs": func(*proxy, config) {},
		"an old one":           func(p *proxy, cfg config) { cfg.version++; p.load(cfg.String()) },
		"the last one": func(p *proxy, _ config) {
			p.load("{\nadmin {$ADMIN}\npersist_config off\n}\nhttp://" + reserve(t) + " {\nrespond other\n}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, servers: "protocols h1 h2 h3"}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			_, conn := dialQUIC(t, cfg.addr)
			// The server has accepted it when it opens its control stream.
			if _, err := conn.AcceptUniStream(t.Context()); err != nil {
				t.Fatal(err)
			}
			reload(p, cfg)

			begun := time.Now()
			p.signal(syscall.SIGTERM)
			checkStopped(t, p, begun, window)
		})
	}
}
