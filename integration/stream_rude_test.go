package integration_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// bareHTTP2 is a client's HTTP/2 connection as bare frames, on which a test may send
// what no client should.
type bareHTTP2 struct {
	t     *testing.T
	conn  *tls.Conn
	pongs chan struct{}
	away  chan struct{} // closed when the proxy has sent GOAWAY
	ended chan struct{} // closed when it has ended the connection

	mu      sync.Mutex // protects what follows, and writing
	framer  *http2.Framer
	streams map[uint32]*bareStream
	next    uint32
}

type bareStream struct {
	*tunnel
	id     uint32
	status chan string
	body   *io.PipeWriter
}

// pings is how many are sent as a flood, and may be under way at once.
const pings = 2000

func (p *proxy) bareHTTP2(t *testing.T) *bareHTTP2 {
	t.Helper()
	conn, err := tls.Dial("tcp", p.addr, authority.ClientConfig("localhost", "h2"))
	if err != nil {
		t.Fatal(err)
	}
	c := &bareHTTP2{
		t: t, conn: conn, framer: http2.NewFramer(conn, conn), next: 1, streams: make(map[uint32]*bareStream),
		pongs: make(chan struct{}, pings), away: make(chan struct{}), ended: make(chan struct{}),
	}
	c.framer.AllowIllegalWrites = true
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c.send(func(f *http2.Framer) error { return f.WriteSettings() })
	go c.read()
	t.Cleanup(func() {
		conn.Close()
		<-c.ended
	})
	return c
}

// send writes frames. The proxy may end the connection meanwhile.
func (c *bareHTTP2) send(write func(f *http2.Framer) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := write(c.framer); err != nil {
		c.t.Logf("writing: %v", err)
	}
}

// read hands out what comes until the connection ends.
func (c *bareHTTP2) read() {
	defer close(c.ended)
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, s := range c.streams {
				s.body.CloseWithError(io.ErrUnexpectedEOF)
			}
			return
		}
		c.mu.Lock()
		s := c.streams[f.Header().StreamID]
		c.mu.Unlock()
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.send(func(f *http2.Framer) error { return f.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if f.IsAck() {
				c.pongs <- struct{}{}
			}
		case *http2.GoAwayFrame:
			select {
			case <-c.away:
			default:
				close(c.away)
			}
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

// ask sends the request for a WebSocket (RFC 8441, section 5).
func (c *bareHTTP2) ask() *bareStream {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, body := io.Pipe()
	s := &bareStream{id: c.next, status: make(chan string, 1), body: body}
	c.next += 2
	c.streams[s.id] = s
	br := bufio.NewReader(r)
	s.tunnel = &tunnel{
		w: s.writer(c), r: br, frames: wstest.NewReader(br, false),
		closeWrite: func() error {
			c.send(func(f *http2.Framer) error { return f.WriteData(s.id, true, nil) })
			return nil
		},
		reset: func() {
			r.Close()
			c.send(func(f *http2.Framer) error { return f.WriteRSTStream(s.id, http2.ErrCodeCancel) })
		},
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", "localhost"},
		{":path", target}, {"sec-websocket-version", "13"},
	} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: block.Bytes(), EndHeaders: true})
	if err != nil {
		c.t.Error(err)
	}
	return s
}

// open opens a WebSocket that carries something.
func (c *bareHTTP2) open() *bareStream {
	c.t.Helper()
	s := c.ask()
	if status := await(c.t, s.status, "response"); status != "200" {
		c.t.Fatalf("status %s", status)
	}
	s.wantOpen(c.t)
	return s
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s *bareStream) writer(c *bareHTTP2) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		c.send(func(f *http2.Framer) error { return f.WriteData(s.id, false, p) })
		return len(p), nil
	})
}

// ping returns once the proxy has taken all that was sent before.
func (c *bareHTTP2) ping(n int) {
	c.t.Helper()
	for range n {
		c.send(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
	}
	for range n {
		await(c.t, c.pongs, "PING in return")
	}
}

// rude is what a client does on a connection with rudeStreams WebSockets, of which the
// first hit end by it.
type rude struct {
	name string
	hit  int
	do   func(c *bareHTTP2, streams []*bareStream)

	// ends says to wait until the proxy ends the connection, which it does a second after
	// its last stream, or a connection error. Elsewhere the client does, after GOAWAY.
	ends bool
}

const rudeStreams = 6

var rudeClients = []rude{
	{name: "GOAWAY", ends: true, do: func(c *bareHTTP2, _ []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
		await(c.t, c.away, "GOAWAY in return")
	}},
	{name: "GOAWAY with an error, twice", do: func(c *bareHTTP2, _ []*bareStream) {
		for range 2 {
			c.send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("enough")) })
		}
		await(c.t, c.away, "GOAWAY in return")
	}},
	{name: "GOAWAY, and resets", hit: 2, do: func(c *bareHTTP2, streams []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteGoAway(0, http2.ErrCodeNo, nil) })
		for _, s := range streams[:2] {
			s.reset()
		}
	}},
	{name: "PING flood", do: func(c *bareHTTP2, _ []*bareStream) { c.ping(pings) }},
	{name: "SETTINGS flood", do: func(c *bareHTTP2, _ []*bareStream) {
		for i := range uint32(pings) {
			c.send(func(f *http2.Framer) error {
				return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<16 + i%2<<16})
			})
		}
		c.ping(1)
	}},
	{name: "WINDOW_UPDATE flood", do: func(c *bareHTTP2, streams []*bareStream) {
		for range pings {
			c.send(func(f *http2.Framer) error { return f.WriteWindowUpdate(streams[0].id, 1) })
		}
		c.ping(1)
	}},
	{name: "resets", hit: 3, do: func(_ *bareHTTP2, streams []*bareStream) {
		for _, s := range streams[:3] {
			s.reset()
			s.reset() // of a stream that is closed
		}
	}},
	{name: "WINDOW_UPDATE of 0 for a stream", hit: 1, do: func(c *bareHTTP2, streams []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteWindowUpdate(streams[0].id, 0) })
	}},
	{name: "WINDOW_UPDATE that overflows a stream", hit: 1, do: func(c *bareHTTP2, streams []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteWindowUpdate(streams[0].id, 1<<31-1) })
	}},
	{name: "WINDOW_UPDATE of 0", hit: rudeStreams, do: func(c *bareHTTP2, _ []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 0) })
	}},
	{name: "WINDOW_UPDATE that overflows", hit: rudeStreams, do: func(c *bareHTTP2, _ []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<31-1) })
	}},
	{name: "SETTINGS with a window too large", hit: rudeStreams, do: func(c *bareHTTP2, _ []*bareStream) {
		c.send(func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		})
	}},
	{name: "DATA for no stream", hit: rudeStreams, ends: true, do: func(c *bareHTTP2, _ []*bareStream) {
		c.send(func(f *http2.Framer) error { return f.WriteData(0, false, []byte("x")) })
	}},
}

// TestStreamsOfARudeClient has clients over HTTP/2 that send what hardly any does, or
// what none may, on a connection with several WebSockets. Those that are in order go on
// until they end, all are counted once, and those on other connections notice nothing.
func TestStreamsOfARudeClient(t *testing.T) {
	relay := newServer(t)
	s := mount(relay.upstream)
	s.body += scraped
	p := start(t, s)
	bystanders := []*tunnel{p.open(t, http1, target, ""), p.open(t, http2x, target, "")}
	for _, test := range rudeClients {
		t.Run(test.name, func(t *testing.T) {
			before := p.restWith(t, relay, bystanders)
			c := p.bareHTTP2(t)
			var streams []*bareStream
			for range rudeStreams {
				streams = append(streams, c.open())
			}
			test.do(c, streams)
			for _, b := range bystanders {
				b.wantOpen(t)
			}
			if test.hit == rudeStreams && !test.ends {
				await(t, c.away, "GOAWAY")
				c.conn.Close()
			}
			for _, s := range streams[:test.hit] {
				if f, err := s.frames.Next(); err == nil {
					t.Errorf("stream %d gets %v", s.id, f)
				}
			}
			for _, s := range streams[test.hit:] {
				s.wantOpen(t)
				s.close(t, wstest.NormalClosure)
			}
			if test.ends {
				await(t, c.ended, "end of the connection")
			}
			after := p.restWith(t, relay, bystanders)
			for series, want := range map[string]int{
				`tunnels_opened_total`:                          rudeStreams,
				`tunnel_duration_seconds_count`:                 rudeStreams,
				`tunnels_closed_total{by="client",code="1000"}`: rudeStreams - test.hit,
				`tunnels_closed_total{by="client",code="1006"}`: test.hit,
				`handshake_failures_total{stage="canceled"}`:    0,
			} {
				if got := int(after[series] - before[series]); got != want {
					t.Errorf("%s is %d more, want %d", series, got, want)
				}
			}
			p.wantReasons(t, rudeStreams-test.hit, test.hit)
		})
	}
}

// restWith waits until the bystanders' tunnels are all that there is, lets go of the log,
// and returns the metrics.
func (p *proxy) restWith(t *testing.T, relay *server, bystanders []*tunnel) (f figures) {
	t.Helper()
	for _, b := range bystanders {
		b.wantOpen(t)
	}
	awaitTrue(t, "rest", func() bool {
		f = p.figures(t, relay.upstream)
		// The bystander over HTTP/2 has a handler.
		return int(f["tunnels"]) == len(bystanders) && f["handshakes_in_flight"] == 0 && inStacks("watchrtc-proxy.(*Handler).ServeHTTP(") == 1
	})
	return f
}

// wantReasons checks the lines of the tunnels that have ended since the last call: so
// many in order, so many by the client's connection.
func (p *proxy) wantReasons(t *testing.T, inOrder, broken int) {
	t.Helper()
	lines := p.logs.wait(t, inOrder+broken, `"tunnel closed"`)
	p.logs.forget()
	if len(lines) != inOrder+broken {
		t.Errorf("%d lines for %d tunnels:\n%s", len(lines), inOrder+broken, strings.Join(lines, ""))
	}
	for _, line := range lines {
		var closed struct {
			ClosedBy  string `json:"closed_by"`
			CloseCode int    `json:"close_code"`
			Reason    string `json:"reason"`
		}
		if err := json.Unmarshal([]byte(line), &closed); err != nil {
			t.Fatal(err)
		}
		switch {
		case closed.ClosedBy == "client" && closed.CloseCode == 1000 && closed.Reason == "close frame":
			inOrder--
		case closed.ClosedBy == "client" && closed.CloseCode == 1006 && closed.Reason != "" && closed.Reason != "close frame":
			broken--
		default:
			t.Errorf("unexpected: %s", line)
		}
	}
	if inOrder != 0 || broken != 0 {
		t.Errorf("%d too few ended in order, %d by the connection", inOrder, broken)
	}
}

// TestStreamResetFlood has a client open WebSockets over HTTP/2 and reset each at once
// (CVE-2023-44487), beside some on the same connection that go on.
func TestStreamResetFlood(t *testing.T) {
	const flood = 500
	relay := newServer(t)
	s := mount(relay.upstream)
	s.body += scraped
	p := start(t, s)
	bystanders := []*tunnel{p.open(t, http1, target, ""), p.open(t, http2x, target, "")}
	before := p.restWith(t, relay, bystanders)
	c := p.bareHTTP2(t)
	kept := []*bareStream{c.open(), c.open()}
	for range flood {
		c.ask().reset()
	}
	c.ping(1)
	for _, s := range kept {
		s.wantOpen(t)
		s.close(t, wstest.NormalClosure)
	}
	after := p.restWith(t, relay, bystanders)
	since := func(series string) int { return int(after[series] - before[series]) }
	opened := since("tunnels_opened_total")
	inOrder, broken := since(`tunnels_closed_total{by="client",code="1000"}`), since(`tunnels_closed_total{by="client",code="1006"}`)
	canceled := since(`handshake_failures_total{stage="canceled"}`)
	t.Logf("%d opened, %d canceled", opened, canceled)
	if inOrder != len(kept) || opened != inOrder+broken || broken+canceled > flood {
		t.Errorf("%d opened, %d ended in order, %d broken; %d canceled of %d", opened, inOrder, broken, canceled, flood)
	}
}
