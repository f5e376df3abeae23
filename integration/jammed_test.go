package integration_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"reflect"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// jammed is a client with an HTTP/2 connection whose flow control lets anything through,
// and which it does not read from.
type jammed struct {
	conn   *tls.Conn
	framer *http2.Framer

	relay *wstest.Relay // accepts each handshake; what comes from /flood is more than all sockets take
	full  chan struct{} // receives when nothing more of that is taken
	over  chan struct{} // receives for each connection of the relay that has ended
}

// newJammed returns a client that has its relay, and no connection yet.
func newJammed(t *testing.T) *jammed {
	t.Helper()
	j := &jammed{full: make(chan struct{}, 1), over: make(chan struct{}, 8)}
	message := []byte(wire(false, binaryMessage(64<<20)))
	j.relay = rawRelay(t, func(c *wstest.Conn) {
		r, err := c.AcceptHandshakeWith("")
		if err != nil {
			t.Error(err)
			return
		}
		if r.URL.Path == "/flood" {
			fill(c, message)
			j.full <- struct{}{}
		}
		c.ReadToEnd()
		j.over <- struct{}{}
	})
	return j
}

// fill writes until nothing is taken any more.
func fill(c *wstest.Conn, p []byte) {
	const piece = 64 << 10
	for ; len(p) > piece; p = p[piece:] {
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := c.Write(p[:piece]); err != nil {
			return
		}
	}
}

// connect opens a WebSocket that jams the connection, and asks for another. It returns
// when the relay has accepted that, and the proxy waits for the client to be told.
func (j *jammed) connect(t *testing.T, p *proxy) {
	t.Helper()
	raw, err := net.Dial(p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.(*net.TCPConn).SetReadBuffer(4 << 10)
	j.begin(raw)
	j.handshake(1, "/websocket/flood")
	await(t, j.full, "standstill")
	j.handshake(3, "/websocket/wait")
	awaitTrue(t, "wait for the client", func() bool { return inStacks("(*roundTrip).flushHead") > 0 })
}

// begin begins HTTP/2 over raw.
func (j *jammed) begin(raw net.Conn) {
	j.conn = tls.Client(raw, authority.ClientConfig("localhost", "h2"))
	io.WriteString(j.conn, http2.ClientPreface)
	j.framer = http2.NewFramer(j.conn, nil)
	j.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	j.framer.WriteWindowUpdate(0, 1<<30)
}

func (j *jammed) handshake(stream uint32, path string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", "localhost"},
		{":path", path + secretQuery}, {"sec-websocket-version", "13"},
	} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	j.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
}

// TestJammedClient has a client that holds on to its connection. The tunnel is over when
// its peers have had their time, and so is the handshake: neither holds a slot or a
// connection to the relay.
func TestJammedClient(t *testing.T) {
	takesLong(t)
	j := newJammed(t)
	s := mount(https(j.relay), "max_tunnels 2")
	a := withAdmin(t, &s)
	p := start(t, s)
	name := "wss://" + j.relay.Addr
	before := a.upstream(t, name) // of an earlier test, if its relay had the same port
	j.connect(t, p)
	a.drain(t, `{"all":true,"window":"0s"}`)
	for range 2 {
		await(t, j.over, "end of the relay's connection")
	}
	closed := p.closed(t)
	if cut, _ := closed["bytes_cut_to_client"].(float64); closed["reason"] != "drained" || closed["closed_by"] != "proxy" || cut == 0 {
		t.Errorf("the log says %v", closed)
	}
	awaitTrue(t, "end of the handshake", func() bool { return a.status(t).Handshakes == 0 })
	want := before
	want.OpenedTotal++
	want.ClosedTotal++
	want.HandshakeFailuresTotal++
	if got := a.upstream(t, name); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for range 2 {
		c := p.dial(t)
		c.wantStatus(c.handshake("/websocket/wait"), http.StatusSwitchingProtocols)
	}
	if inStacks("(*streamLeg).serve") != 1 || inStacks("(*roundTrip).flushHead") != 1 {
		t.Error("the connection is not jammed any more")
	}
}

// TestDrainLeavesWritingToHandlers has an operator drain a WebSocket over HTTP/2. Who
// waits for its end must not write for it: the handler would be over before a write that
// the client holds up, and the drain would be under way for as long as the connection is.
func TestDrainLeavesWritingToHandlers(t *testing.T) {
	j := newJammed(t)
	s := mount(https(j.relay))
	a := withAdmin(t, &s)
	p := start(t, s)
	raw, err := net.Dial(p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	j.begin(raw)
	j.handshake(1, "/websocket/wait")
	awaitTrue(t, "tunnel", func() bool { return inStacks("(*streamLeg).serve(") == 1 })
	a.drain(t, `{"all":true,"window":"0s"}`)
	awaitTrue(t, "drain that waits", func() bool {
		return inStacks("(*Tunnel).AwaitEnd(") == 1 || inStacks("(*streamLeg).serve(") > 1
	})
	if inStacks("(*streamLeg).serve(") > 1 {
		t.Error("the drain writes to the client, too")
	}
	raw.Close()
	await(t, j.over, "end of the relay's connection")
	a.awaitDrains(t, 0)
}

// TestJammedClientGoes has such a client go. No line of the log holds its key, and none
// blames the proxy.
func TestJammedClientGoes(t *testing.T) {
	j := newJammed(t)
	p := start(t, mount(https(j.relay)))
	j.connect(t, p)
	j.conn.NetConn().Close()
	for range 2 {
		await(t, j.over, "end of the relay's connection")
	}
	p.stop(t)
	for _, word := range []string{"s3cret", `"level":"error"`} {
		lines, _ := p.logs.matching(word)
		for _, line := range lines {
			t.Errorf("%s in %s", word, line)
		}
	}
}
