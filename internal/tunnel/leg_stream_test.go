package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// streamTunnel is a tunnel whose client comes over an HTTP/2 stream.
type streamTunnel struct {
	client struct {
		*io.PipeWriter // the request's body
		io.Reader      // the response's
	}
	relay   *memConn
	aborted chan bool // what Wait reported
	fixture *fixture
}

// wrappedWriter stands for what Caddy puts around a http.ResponseWriter. Nothing
// may be written through it.
type wrappedWriter struct{ http.ResponseWriter }

func (w wrappedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (wrappedWriter) Write([]byte) (int, error)     { panic("not the innermost writer") }

func openStreamTunnel(t *testing.T) *streamTunnel {
	s := &streamTunnel{aborted: make(chan bool, 1), fixture: newFixture(t, 0)}
	leg, relay := memPair(room)
	s.relay = relay
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		tunnel := s.fixture.lease.Open(Info{}, StreamLeg(nil, wrappedWriter{w}, r.Body), ConnLeg(leg, nil, false), 0)
		aborted := tunnel.Wait()
		s.aborted <- aborted
		if aborted {
			panic(http.ErrAbortHandler)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)

	body, w := io.Pipe()
	response, err := server.Client().Post(server.URL, "", body)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close()
		response.Body.Close()
	})
	if response.ProtoMajor != 2 {
		t.Fatalf("this is %s", response.Proto)
	}
	s.client.PipeWriter, s.client.Reader = w, response.Body
	return s
}

func TestStreamLeg(t *testing.T) {
	s := openStreamTunnel(t)
	for _, size := range legSizes {
		want, got := pattern(size), make([]byte, size)
		go s.client.Write(want)
		if _, err := io.ReadFull(s.relay, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes to the relay: %v", size, err)
		}
		clear(got)
		go s.relay.Write(want)
		if _, err := io.ReadFull(s.client, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes to the client: %v", size, err)
		}
	}
	s.client.Close()
	if _, err := s.relay.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the relay sees %v", err)
	}
	go func() {
		s.relay.Write(pattern(100_000))
		s.relay.Close()
	}()
	if got, err := io.ReadAll(s.client); err != nil || !bytes.Equal(got, pattern(100_000)) {
		t.Errorf("last come %d bytes, %v", len(got), err)
	}
	if <-s.aborted {
		t.Error("an abnormal end")
	}
}

// The relay's Close frame passes; then its end ends the stream.
func TestStreamLegRelayEnds(t *testing.T) {
	s := openStreamTunnel(t)
	s.relay.Write(encode(false, wstest.CloseFrame(1000)))
	if _, err := io.ReadFull(s.client, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	s.client.Write(encode(true, wstest.CloseFrame(1000)))
	s.client.Close()
	if f, err := wstest.NewReader(s.relay, true).Next(); err != nil || f.Code() != 1000 {
		t.Errorf("the relay gets %s, %v", f, err)
	}
	s.relay.Close()
	if _, err := s.client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client sees %v", err)
	}
	if <-s.aborted {
		t.Error("an abnormal end")
	}
	if sum := s.fixture.summary(); sum.ClosedBy != ByRelay || sum.CloseCode != 1000 {
		t.Errorf("%+v", sum)
	}
}

// An orderly end of the relay ends the stream in order, and at once: END_STREAM
// cannot go out while the other direction runs. What came before arrives.
func TestStreamLegEndsWithRelay(t *testing.T) {
	s := openStreamTunnel(t)
	want := append(encode(false, binaryFrame(pattern(200_000))), encode(false, wstest.CloseFrame(1000))...)
	go func() {
		s.relay.Write(want)
		s.relay.Close()
	}()
	if got, err := io.ReadAll(s.client); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the client gets %d bytes of %d, %v", len(got), len(want), err)
	}
	if <-s.aborted {
		t.Error("an abnormal end")
	}
	sum := s.fixture.summary()
	if sum.ClosedBy != ByRelay || sum.CloseCode != 1000 || sum.Duration >= linger {
		t.Errorf("%+v", sum)
	}
}

// What a client has sent arrives although it resets its stream right after.
func TestStreamLegUploadThenReset(t *testing.T) {
	for range 50 {
		s := openStreamTunnel(t)
		want := pattern(50_016)
		if _, err := s.client.Write(want); err != nil {
			t.Fatal(err)
		}
		s.client.CloseWithError(errors.New("resets the stream"))
		got, err := io.ReadAll(s.relay)
		if !bytes.HasPrefix(want, got) || !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("the relay gets %d bytes of %d, %v", len(got), len(want), err)
		}
		s.relay.Close()
		<-s.aborted
		if sum := s.fixture.summary(); sum.BytesToRelay != uint64(len(got)) || sum.CutToRelay != 0 {
			t.Fatalf("the relay got %d bytes: %+v", len(got), sum)
		}
	}
}

func TestStreamLegRelayAborts(t *testing.T) {
	s := openStreamTunnel(t)
	s.relay.abort()
	if _, err := s.client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the client sees %v, want a reset of the stream", err)
	}
	if !<-s.aborted {
		t.Error("Wait takes a reset for an orderly end")
	}
}

func TestStreamLegClientAborts(t *testing.T) {
	s := openStreamTunnel(t)
	s.client.CloseWithError(errors.New("resets the stream"))
	if _, err := s.relay.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the relay sees %v", err)
	}
	if !<-s.aborted {
		t.Error("Wait takes a cancelled stream for an orderly end")
	}
	if sum := s.fixture.summary(); sum.ClosedBy != ByClient || sum.CloseCode != closeAbnormal {
		t.Errorf("%+v", sum)
	}
}

func TestStreamLegDrained(t *testing.T) {
	s := openStreamTunnel(t)
	s.fixture.lease.Release()
	client, relay := wstest.NewReader(s.client, false), wstest.NewReader(s.relay, true)
	for _, r := range []*wstest.Reader{client, relay} {
		if f, err := r.Next(); err != nil || f.Code() != closeGoingAway {
			t.Errorf("got %s, %v", f, err)
		}
	}
	s.client.Write(encode(true, wstest.CloseFrame(1000)))
	s.relay.Write(encode(false, wstest.CloseFrame(1000)))
	for _, r := range []*wstest.Reader{client, relay} {
		if f, err := r.Next(); err != io.EOF {
			t.Errorf("then %s, %v", f, err)
		}
	}
	s.fixture.registry.Wait()
	if <-s.aborted {
		t.Error("an abnormal end")
	}
}

// A client that takes nothing holds up neither its tunnel's end nor its handler.
func TestStreamLegStuckClient(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a tunnel lingers")
	}
	t.Parallel()
	s := openStreamTunnel(t)
	written := make(chan error, 1)
	go func() {
		frame := encode(false, binaryFrame(pattern(64<<20)))
		_, err := s.relay.Write(frame)
		written <- err
	}()
	if _, err := io.ReadFull(s.client, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	s.fixture.lease.Release()
	s.fixture.registry.Wait()
	<-s.aborted
	<-written
	if sum := s.fixture.summary(); sum.Reason != "drained" {
		t.Errorf("%+v", sum)
	}
}

func TestInnermost(t *testing.T) {
	w := httptest.NewRecorder()
	if got := Innermost(wrappedWriter{wrappedWriter{w}}); got != w {
		t.Errorf("got %T", got)
	}
	if got := Innermost(w); got != w {
		t.Errorf("got %T", got)
	}
}

// What waits in the connection's socket counts, so that a slow client is not idle.
func TestStreamLegUnsent(t *testing.T) {
	if !unsentKnown {
		t.Skip("this system does not tell")
	}
	conn, client := tcpPair(t)
	leg := StreamLeg(conn, httptest.NewRecorder(), nil).(*streamLeg)
	if n := leg.unsent(); n != 0 {
		t.Errorf("%d bytes at first", n)
	}
	narrow(conn)
	narrow(client)
	const size = 2 << 20 // more than the client's socket takes
	go conn.Write(pattern(size))
	for leg.unsent() == 0 {
		runtime.Gosched()
	}
	if _, err := io.CopyN(io.Discard, client, size); err != nil {
		t.Fatal(err)
	}
	for leg.unsent() != 0 { // the last acknowledgement is on its way
		runtime.Gosched()
	}
	if n := StreamLeg(nil, httptest.NewRecorder(), nil).(*streamLeg).unsent(); n != 0 {
		t.Errorf("%d bytes without a connection", n)
	}
}

// A silent WebSocket is idle, at the latest after twice its time, also where there is always
// something on its way to other streams of its client's connection.
func TestStreamLegIdleBesideOthers(t *testing.T) {
	if !unsentKnown {
		t.Skip("this system does not tell")
	}
	r := newFixture(t, 0)
	conn, client := tcpPair(t)
	narrow(conn)
	narrow(client)
	go conn.Write(pattern(8 << 20)) // what others get
	body, _ := io.Pipe()
	leg := StreamLeg(conn, httptest.NewRecorder(), body)
	relayLeg, relay := tcpPair(t)
	tunnel := r.lease.Open(Info{}, leg, ConnLeg(relayLeg, nil, false), time.Hour)
	// look has the tunnel looked at when it has been silent for so long, and the client
	// has taken something since the last time.
	look := func(silent time.Duration) (closed bool) {
		for before := leg.unsent(); leg.unsent() == before || leg.unsent() == 0; {
			if _, err := io.CopyN(io.Discard, client, 1000); err != nil {
				t.Fatal(err)
			}
		}
		tunnel.active.Store(int64(time.Since(tunnel.opened) - silent))
		tunnel.checkIdle()
		tunnel.mu.Lock()
		defer tunnel.mu.Unlock()
		return tunnel.reason == "idle"
	}
	if look(time.Hour) || look(time.Hour+secondLook) {
		t.Error("what is on its way may be this stream's, and nobody has looked for long enough")
	}
	look(2*time.Hour + secondLook)
	if !look(2*time.Hour + 2*secondLook) {
		t.Error("a silent WebSocket is not idle")
	}
	body.Close()
	reset(relay)
	reset(client)
	tunnel.Wait()
}
