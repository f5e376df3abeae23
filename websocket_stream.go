package watchrtcproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// notOnStream are fields of a relay's 101 that a 200 on a stream must not have: those
// of an HTTP/1.1 connection (RFC 9113, section 8.2.2; RFC 9114, section 4.2), of a
// body (RFC 9110, section 9.3.6) and of a handshake with a key (RFC 8441, section 5).
var notOnStream = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Transfer-Encoding", "Upgrade",
	"Content-Encoding", "Content-Length", "Content-Range", "Trailer",
	"Sec-Websocket-Accept",
}

// openStream responds to a client on an HTTP/2 or HTTP/3 stream with 200 (RFC 8441,
// section 5) and stays until the tunnel is over: the stream ends with its handler.
func (t *roundTrip) openStream(relay tunnel.Leg) error {
	for _, field := range notOnStream {
		delete(t.w.Header(), field)
	}
	inner := tunnel.Innermost(t.w)
	t.w.WriteHeader(http.StatusOK)
	inner.WriteHeader(http.StatusOK) // a wrapper may keep it back, to see the body first
	if err := t.flushHead(inner); err != nil {
		return err
	}
	if streamer, ok := inner.(http3.HTTPStreamer); ok {
		t.tunnelHTTP3(newHTTP3Stream(streamer.HTTPStream()), relay)
		return nil
	}
	var conn net.Conn
	if client, ok := t.r.Context().Value(connKey{}).(*clientConn); ok {
		conn = client.Conn
	}
	clearDeadlines(inner)
	if t.open(tunnel.StreamLeg(conn, t.w, innermostBody(t.r)), relay).Wait() {
		panic(http.ErrAbortHandler) // RST_STREAM: an abnormal end stays one
	}
	return nil
}

// notAccepted refuses a WebSocket on a stream that the relay has responded to with a 2xx
// other than by switching protocols. To the client any 2xx would say that it is open (RFC
// 8441, section 5).
func (t *roundTrip) notAccepted(response *http.Response) error {
	response.Body.Close()
	t.hintOf(response)
	return t.fail(t.relay.Invalid(fmt.Sprintf("responded to a handshake with status %d", response.StatusCode), nil))
}

// flushHead waits until the client's connection has taken the response. When that takes
// too long, slot and relay are given up at once: over HTTP/2 this goroutine has to stay
// until the connection takes something again, or ends.
func (t *roundTrip) flushHead(inner http.ResponseWriter) error {
	client := http.NewResponseController(inner)
	client.SetWriteDeadline(time.Now().Add(clientPatience))
	giveUp := sync.OnceFunc(t.notTaken)
	limit := time.AfterFunc(clientPatience, giveUp)
	err := client.Flush()
	if !limit.Stop() {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		giveUp() // or wait until that is done
	}
	return err
}

func (t *roundTrip) tunnelHTTP3(s *http3Stream, relay tunnel.Leg) {
	defer s.keepAlive()()
	clearDeadlines(s)
	opened := t.open(tunnel.StreamLeg(nil, s, s), relay)
	defer t.h.server.hold(opened)()
	s.end(opened.Wait())
}

// clearDeadlines takes off a stream what the server's timeouts allow a request. The
// tunnel has its own idle timeout.
func clearDeadlines(w http.ResponseWriter) {
	deadlines := http.NewResponseController(w)
	deadlines.SetReadDeadline(time.Time{})
	deadlines.SetWriteDeadline(time.Time{})
}

// innermostBody returns the body below what limits how large and how slow a request
// may be, which would count a stream's bytes and end its silence. Without Caddy's idle
// timeouts there is no way to it.
func innermostBody(r *http.Request) io.Reader {
	reader, _ := caddyhttp.IdleTimeoutsFromContext(r.Context())
	if reader == nil {
		return r.Body
	}
	body := reader.ReadCloser
	for {
		wrapper, ok := body.(*caddyhttp.IdleTimeoutReader)
		if !ok {
			return body
		}
		body = wrapper.ReadCloser
	}
}

// http3Stream is an HTTP/3 stream that is taken over from the server. It is an
// http.ResponseWriter whose header has been written.
type http3Stream struct {
	*http3.Stream
	active atomic.Bool // something has come or gone since keepAlive looked

	mu      sync.Mutex // whoever holds it writes; protects what follows
	written time.Time  // when something was last written
	broken  bool       // a frame may have been written in part
}

func newHTTP3Stream(s *http3.Stream) *http3Stream {
	return &http3Stream{Stream: s, written: time.Now()} // the response's header
}

func (s *http3Stream) Header() http.Header { return nil }
func (s *http3Stream) WriteHeader(int)     {}
func (s *http3Stream) Flush()              {} // nothing is buffered

func (s *http3Stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	s.active.Store(true)
	return n, http3Error(err)
}

// Write puts p into a DATA frame (RFC 9114, section 7.2.1). It returns when the client
// has granted room for all of it and all of it has been sent: quic-go's Write keeps up
// to a packet, to fill it with what may come.
func (s *http3Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active.Store(true)
	stream := s.QUICStream()
	n := 0
	_, err := stream.Write(quicvarint.Append([]byte{dataFrame}, uint64(len(p))))
	if err == nil {
		n, err = stream.WriteWithLimit(p, unlimited)
	}
	s.written = time.Now()
	if err != nil {
		s.broken = true
		return n, http3Error(err)
	}
	stream.SetReliableBoundary() // a reset spares what was sent, if the client can do that
	return n, nil
}

// dataFrame is the type of DATA frames.
const dataFrame = 0

func unlimited(n int) int { return n }

// deliveryTime is how long the client has to take what was written before a reset may
// throw it away: as long as a peer has on any other leg.
const deliveryTime = 5 * time.Second

// end ends the stream as the tunnel has ended (RFC 9220, section 3).
//
// A reset throws away what has not been acknowledged, and what the client's program has
// not read, unless the client takes resets with partial delivery
// (draft-ietf-quic-reliable-stream-reset). quic-go tells neither what is acknowledged
// nor what the client takes. So an abnormal end is a reset only where nothing has been
// written for deliveryTime. Else the stream ends in order and all is delivered: a
// WebSocket that ends without a Close frame has still ended abnormally (RFC 6455,
// section 7.1.5). A frame that was cut takes a reset in any case: an orderly end within
// it is an error of the connection, and of all that is on it (RFC 9114, section 7.1).
func (s *http3Stream) end(abnormal bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken || abnormal && time.Since(s.written) >= deliveryTime {
		s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		return
	}
	s.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError)) // if it has not ended
	s.Close()
}

// How a stream has failed. quic-go's errors hold the client's own words (RFC 9000,
// section 19.19), which are nothing for a log.
var (
	errStreamReset        = errors.New("stream reset")
	errConnectionClosed   = errors.New("connection closed")
	errConnectionVanished = errors.New("connection timed out")
	errConnectionFailed   = errors.New("connection failed")
)

// http3Error returns err, of a stream, without any words of the client's. An orderly
// end and a deadline that has passed stay what they are.
func http3Error(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*quic.StreamError](err); ok {
		return errStreamReset
	}
	if _, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return errConnectionClosed
	}
	if _, ok := errors.AsType[*quic.IdleTimeoutError](err); ok {
		return errConnectionVanished
	}
	return errConnectionFailed
}

// keepAliveInterval is well below QUIC's idle timeout, which is 30 s here and may be
// shorter at the client.
var keepAliveInterval = 10 * time.Second

// reservedFrame is an empty frame of a type without a meaning, which every
// implementation of HTTP/3 must ignore (RFC 9114, section 7.2.8).
var reservedFrame = []byte{0x21, 0}

// keepAlive keeps QUIC's idle timeout from ending a silent tunnel: Caddy sends no
// PINGs, and has no option for it. A client that has vanished is still noticed, since
// it acknowledges nothing.
func (s *http3Stream) keepAlive() (stop func()) {
	ticker, quit := time.NewTicker(keepAliveInterval), make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-ticker.C:
				s.sendIfSilent()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(quit)
		<-stopped
	}
}

// sendIfSilent puts a reserved frame between two others. If something is being
// written, or does not fit, the stream is not silent.
func (s *http3Stream) sendIfSilent() {
	if s.active.Swap(false) || !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if !s.broken {
		_ = s.QUICStream().TryWriteAll(reservedFrame) // that the stream is over is the tunnel's to see
	}
}
