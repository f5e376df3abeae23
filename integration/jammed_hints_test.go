package integration_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// upload begins a request with a body that has no length.
func (j *jammed) upload(stream uint32, path string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	j.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	j.framer.WriteData(stream, true, []byte("x"))
}

// newJammedBy returns a client that a relay's response from /flood has jammed; the relay
// closes full when nothing more of that is taken.
func newJammedBy(t *testing.T, p *proxy, full <-chan struct{}) *jammed {
	t.Helper()
	raw, err := net.Dial(p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.(*net.TCPConn).SetReadBuffer(4 << 10)
	j := new(jammed)
	j.begin(raw)
	j.upload(1, "/websocket/flood")
	await(t, full, "standstill")
	return j
}

// TestJammedClientGetsHints has a client that takes nothing from its connection, and a
// relay over HTTP/2 that has a 103 for it. All others that upload over the same connection
// to the relay go on.
func TestJammedClientGetsHints(t *testing.T) {
	full, hinted, stop := make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flood":
			piece := make([]byte, 64<<10)
			controller := http.NewResponseController(w)
			for err := error(nil); err == nil; _, err = w.Write(piece) {
				controller.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			}
			close(full)
		case "/hint":
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			hinted <- struct{}{}
			<-stop
		default:
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, r.Proto)
		}
	}, withHTTP2)
	defer close(stop)
	p := start(t, mount(relay.URL, "handshake_timeout 2s"))
	other := p.client(t, http1)
	wantUpload := func() {
		t.Helper()
		response, body := ask(t, other, request(t, "POST", p.url("/websocket/trace"), io.MultiReader(bytes.NewReader([]byte("x")))))
		wantStatus(t, response, http.StatusOK)
		wantBody(t, body, "HTTP/2.0")
	}
	wantUpload()

	j := newJammedBy(t, p, full)
	j.upload(3, "/websocket/hint")
	await(t, hinted, "hint")
	awaitTrue(t, "1xx that waits for the client", func() bool { return inStacks("(*roundTrip).writeInterim") > 0 })
	for range 3 {
		wantUpload()
	}
}
