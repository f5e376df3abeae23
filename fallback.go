package watchrtcproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/http1"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// clientBody is the body of the client's request.
type clientBody struct {
	small  *http1.Body   // all of it, where it is small
	stream *streamedBody // or what gives it out as it comes
	broken bool          // it was to be small, and not all of it could be read
	shared bool          // error routes have it in another request than ours
}

// receive reads a small body, and prepares to stream any other. Small bodies can be
// sent to another relay. Nothing else is held while the client takes its time.
func (b *clientBody) receive(t *roundTrip) error {
	r := t.r
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	b.shared = isCopy(r) && t.h.errorRoutes.see(r)
	if r.ContentLength > 0 && r.ContentLength <= http1.MaxBody && len(r.Trailer) == 0 && len(r.Header["Expect"]) == 0 && !b.shared {
		small, err := http1.ReadBody(r.Body, r.ContentLength)
		if err != nil {
			b.broken = true
			return clientError{err}
		}
		b.small = small
		return nil
	}
	b.stream = newStreamedBody(t)
	// The relay may respond before the body has come. Without this net/http waits
	// for the body before it writes a response.
	http.NewResponseController(t.w).EnableFullDuplex()
	return nil
}

// isCopy reports whether a handler in front, such as tracing, has passed a copy of the
// request on. Error routes get the original: what is put into the copy does not reach
// them. Caddy's replacer looks at the original, too.
func isCopy(r *http.Request) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	defer func(proto string) { r.Proto = proto }(r.Proto)
	r.Proto = "of a copy"
	seen, _ := repl.GetString("http.request.proto")
	return seen != r.Proto
}

// post sends a request that opens no WebSocket to the relay.
func (t *roundTrip) post() (*http.Response, error) {
	ctx := httptrace.WithClientTrace(t.limit.Context, &httptrace.ClientTrace{Got1xxResponse: t.got1xx, GotConn: t.gotConn})
	out := t.outgoing(ctx)
	t.body.attach(out, t.limit)
	t.limit.Pause() // an operation may read the client's body
	t.h.applyRequestOps(out)
	t.limit.Resume()
	response, err := t.relay.RoundTrip(out)
	if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
		response.Body.Close()
		return nil, t.relay.Invalid("switched protocols without being asked to", nil)
	}
	return response, err
}

// gotConn is for httptrace.
func (t *roundTrip) gotConn(info httptrace.GotConnInfo) {
	t.requestConn.Store(&info.Conn)
	if t.body.stream != nil {
		t.body.stream.lost = relay.Ended(info.Conn)
	}
}

// dropRelay ends what no context does: over HTTP/2 reading a response, and closing it, may
// write, which waits for a relay that reads nothing.
func (t *roundTrip) dropRelay() {
	if conn := t.requestConn.Load(); conn != nil {
		relay.Drop(*conn)
	}
}

// attach makes b the body of out.
func (b *clientBody) attach(out *http.Request, limit *relay.Limit) {
	switch {
	case b.small != nil:
		b.small.Close() // begin again
		out.Body, out.ContentLength = b.small, b.small.Len()
	case b.stream != nil:
		b.stream.attach(out, limit)
	default:
		out.Body, out.ContentLength = http.NoBody, 0
	}
}

// giveBack lets a handler that comes next, such as a reverse_proxy in handle_errors, read
// the body, if none of it has been sent or read for sending. What is left of any other is
// no body: reading it fails. It has no trailers either: whoever still reads a piece may find
// the end of the body, and then net/http writes them to the request's own map.
func (b *clientBody) giveBack(r *http.Request, unsent bool) {
	switch {
	case b.stream == nil && b.small == nil && !b.broken:
	case unsent && b.small != nil:
		r.Body = b.small.Copy() // a transport may go on reading what it has closed
	case unsent && b.stream != nil && b.stream.giveBack():
	case b.shared:
		b.stream.breakOff()
	default:
		r.Body, r.Trailer = brokenBody{}, nil
	}
}

// spend leaves no body to a handler that comes after the relay's response, such as a
// reverse_proxy in intercept: the end of one that was read or discarded here would look like
// the whole of an empty one.
func (b *clientBody) spend(r *http.Request) {
	if b.stream != nil || b.small != nil {
		r.Body, r.Trailer = brokenBody{}, nil
	}
}

// brokenBody is the rest of a body that somebody else has begun to read.
type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
func (brokenBody) Close() error             { return nil }

// looksEmpty reports whether error routes, which have it in another request than ours, would
// take what is left of the body for the whole of an empty one: all of it has been read, and
// no length was announced that it could be held against.
func (b *clientBody) looksEmpty() bool {
	return b.shared && b.stream != nil && b.stream.ended.Load() && b.stream.r.ContentLength < 0
}

// unread reports whether the client may have more to send.
func (b *clientBody) unread() bool { return b.stream != nil && !b.stream.ended.Load() }

// failed reports whether the client is to blame for what becomes of its request.
func (b *clientBody) failed() bool { return b.stream != nil && b.stream.failed.Load() }

// release says that nothing will read the body any more.
func (b *clientBody) release() {
	if b.small != nil {
		b.small.Release()
		b.small = nil
	}
	if b.stream != nil {
		b.stream.release()
	}
}

// streamedBody gives out a body as it comes. Whatever time the client takes for it
// does not count as the relay's.
type streamedBody struct {
	r       *http.Request
	body    io.Reader // its own; others may find another there
	w       http.ResponseWriter
	limit   *relay.Limit
	left    int64                   // how many bytes are allowed
	missing int64                   // bytes of the announced length that have not come; below 0 for none announced
	came    http.Header             // trailers of the client's request, when all of it has been read
	trailer http.Header             // of the outgoing request; nil where there can be none
	allowed func(field string) bool // reports whether a trailer may go to the relay
	atEnd   func()                  // called when ended is set

	ended  atomic.Bool     // all of it has been read
	failed atomic.Bool     // it cannot be read, or is too large
	lost   <-chan struct{} // closed when the relay's connection has ended; nil where that is not known
	pieces chan piece      // what is read while Read waits
	buffer []byte          // of pieces
	filled bool            // by the last piece

	mu      sync.Mutex // protects what follows
	closed  chan struct{}
	close   func()         // closes closed
	begun   bool           // something may have been read
	given   bool           // back to the request, whose it is again
	reading sync.WaitGroup // whoever reads a piece; nobody begins to when it is closed
}

// piece is what a read of the client's body has returned.
type piece struct {
	n   int
	err error
}

// firstPiece is all the memory that a client gets for its pieces until it fills one: some
// send a byte at a time.
const firstPiece = 4 << 10

func newStreamedBody(t *roundTrip) *streamedBody {
	b := &streamedBody{
		r: t.r, body: t.r.Body, w: t.w, left: t.h.MaxBodySize, missing: t.r.ContentLength,
		came: t.r.Trailer, allowed: t.h.rules.RequestTrailer, atEnd: t.uploaded,
		closed: make(chan struct{}), pieces: make(chan piece, 1),
	}
	b.close = sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		close(b.closed)
	})
	return b
}

func (b *streamedBody) attach(out *http.Request, limit *relay.Limit) {
	b.limit = limit
	out.Body, out.ContentLength = b, b.r.ContentLength
	if len(b.came) > 0 {
		out.ContentLength = -1 // trailers need chunks (RFC 9112, section 7.1.2)
	}
	if out.ContentLength < 0 {
		b.trailer = make(http.Header)
		for field := range b.came {
			if b.allowed(field) {
				b.trailer[field] = nil
			}
		}
		out.Trailer = b.trailer
	}
}

func (b *streamedBody) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	b.limit.Pause()
	n, err := b.readPiece(p)
	b.limit.Resume()
	if int64(n) > b.left {
		return 0, b.fail(errBodyTooLarge)
	}
	b.left -= int64(n)
	b.missing -= int64(n)
	if err == io.EOF && b.missing > 0 {
		err = io.ErrUnexpectedEOF // over HTTP/3 nobody else looks (RFC 9114, section 4.1.2)
	}
	switch {
	case err == io.EOF:
		b.ended.Store(true)
		b.atEnd()
		if b.trailer != nil {
			b.copyTrailer()
		}
	case err == errRelayLost, err == http.ErrBodyReadAfterClose:
	case err != nil:
		err = b.fail(err)
	}
	return n, err
}

// fail ends the request, which transports over HTTP/3 do not do where its body has failed.
func (b *streamedBody) fail(err error) error {
	err = clientError{err}
	b.failed.Store(true)
	b.limit.Fail(err)
	return err
}

// readPiece reads what the client sends, as long as the relay is there to have it: a
// transport does not return before the body's reader does, and the client may take any
// time. What comes later goes nowhere.
func (b *streamedBody) readPiece(p []byte) (int, error) {
	switch {
	case b.buffer == nil:
		b.buffer = make([]byte, firstPiece)
	case b.filled && len(b.buffer) < copyBufferSize:
		b.buffer = make([]byte, copyBufferSize)
	}
	p = p[:min(len(p), len(b.buffer))]
	b.begin(b.buffer[:len(p)])
	select {
	case read := <-b.pieces:
		b.filled = read.n == len(b.buffer)
		return copy(p, b.buffer[:read.n]), read.err
	case <-b.lost:
		b.close()
		return 0, errRelayLost
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	}
}

// begin begins to read a piece, unless b is closed.
func (b *streamedBody) begin(into []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return
	default:
	}
	b.begun = true
	b.reading.Go(func() {
		n, err := b.body.Read(into)
		b.pieces <- piece{n, err}
	})
}

// copyTrailer hands over the trailers, also those that were not announced.
func (b *streamedBody) copyTrailer() {
	for field, values := range b.came {
		if b.allowed(field) {
			b.trailer[field] = values
		}
	}
}

// Close does not touch the client's body: closing that one waits for the client.
func (b *streamedBody) Close() error {
	b.close()
	return nil
}

// abandonedBody is how long a body is read at most that nobody wants any more.
const abandonedBody = time.Second

// abandonBody limits how long net/http reads what is left of a body over HTTP/1.1, when
// the handlers have returned. Until then an error route has what time it wants, with the
// body or without: a deadline that is over while somebody reads, even for a piece that
// was given up, would end the request's context. It is set when the time is up and not
// before, because net/http takes any away when it ends the read of such a piece. By then
// the connection carries nothing else: it is closed after the response (closeAfterUpload, fail).
// Streams of HTTP/2 and 3 end with their handlers.
func abandonBody(r *http.Request, w http.ResponseWriter) {
	if r.ProtoMajor != 1 {
		return
	}
	conn := http.NewResponseController(tunnel.Innermost(w)) // others may be used again by then
	giveUp := func() { conn.SetReadDeadline(time.Unix(1, 0)) }
	context.AfterFunc(r.Context(), func() { time.AfterFunc(abandonedBody, giveUp) })
}

// release ends the reader of a piece that has been given up. Over HTTP/1.1 that would end
// the request's context, which error routes still need: there it happens later, unless the
// process stops or the context has ended already, as the client has gone. net/http would
// wait for it, and the access log counts what is read.
func (b *streamedBody) release() {
	b.close()
	switch {
	case b.ended.Load() || b.given:
	case b.r.ProtoMajor != 1 || stopping.done.Err() != nil || b.r.Context().Err() != nil:
		b.stopReading()
	default:
		abandonBody(b.r, b.w)
	}
}

// giveBack leaves the body to others, if nobody has begun to read it.
func (b *streamedBody) giveBack() bool {
	b.close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.given = !b.begun
	return b.given
}

// breakOff closes the client's body, so that nobody takes what is left of it for all. An
// error route may find the request canceled by that.
func (b *streamedBody) breakOff() {
	if !b.ended.Load() { // Close would wait for the client
		b.stopReading()
	}
	b.r.Body.Close()
}

// stopReading waits until nobody reads a piece any more.
func (b *streamedBody) stopReading() {
	b.close()
	err := b.setReadDeadline(time.Unix(1, 0))
	if err == nil || errors.Is(err, net.ErrClosed) { // otherwise it would wait for the client
		b.reading.Wait()
	}
}

// setReadDeadline goes by Caddy's idle timeouts, where there are some: they set a deadline of
// their own for each read, and those of a route do not look at what is set by w.
func (b *streamedBody) setReadDeadline(deadline time.Time) error {
	if reader, _ := caddyhttp.IdleTimeoutsFromContext(b.r.Context()); reader != nil {
		return reader.SetReadDeadline(deadline)
	}
	return http.NewResponseController(b.w).SetReadDeadline(deadline)
}

// discard takes what the client still sends, until abandonedBody is over: some write all
// of a body before they look for a response.
func (b *streamedBody) discard() {
	b.close()
	if b.setReadDeadline(time.Now().Add(abandonedBody)) == nil { // otherwise it would wait for the client
		b.reading.Wait()
		io.Copy(io.Discard, b.body)
	}
}

// errRelayLost ends a body that the relay is not there for any more.
var errRelayLost = fmt.Errorf("the relay's connection has ended: %w", io.ErrUnexpectedEOF)

// clientError is a failure to read the client's body.
type clientError struct{ error }

func (e clientError) Unwrap() error { return e.error }

// writeResponse writes the relay's status, body and trailers: the head at once, and
// each piece of the body as it comes.
func (t *roundTrip) writeResponse(response *http.Response) error {
	defer response.Body.Close()
	t.hintOf(response)
	t.setResponseHeader(response)
	header := t.w.Header()
	if len(header["Content-Type"]) == 0 {
		header["Content-Type"] = nil // net/http would guess
	}
	t.closeAfterUpload()
	announced := len(response.Trailer)
	for field := range response.Trailer {
		if forward.ResponseTrailer(field) {
			header.Add("Trailer", field)
		}
	}
	if announced > 0 && response.Body != http.NoBody {
		// HTTP/2 has trailers after a body with a length, HTTP/1.1 has not.
		delete(header, "Content-Length")
	}
	t.w.WriteHeader(response.StatusCode)
	if err := t.copyBody(response); err != nil {
		t.abort()
	}
	writeTrailer(header, response.Trailer, announced)
	if t.r.ProtoMajor == 1 && t.unread() {
		t.flush()
		t.body.stream.discard()
	}
	t.body.spend(t.r)
	return nil
}

// closeAfterUpload has an HTTP/1.1 connection closed after the response where the client
// may still be uploading: net/http writes the response without waiting for the body, and
// what comes after it is not taken for another request.
//
// Closing at once would reset the connection and could take the response along. net/http
// sees to that by its body's type, which Caddy's read_idle_timeout hides, and where a
// MaxBytesReader has found a body too large: so here one does. It then reads 256 KiB at most,
// for abandonedBody at most, ends its own side and waits for half a second. That is what
// a refused upload costs: a connection and its goroutine for a second and a half, no
// slot, and no memory but its buffers.
func (t *roundTrip) closeAfterUpload() {
	if t.r.ProtoMajor != 1 || !t.unread() {
		return
	}
	t.w.Header()["Connection"] = []string{"close"}
	tooLarge := http.MaxBytesReader(tunnel.Innermost(t.w), io.NopCloser(strings.NewReader("x")), 0)
	tooLarge.Read(make([]byte, 1))
}

// unread reports whether the client may have more of its body to send.
func (t *roundTrip) unread() bool {
	if t.limit == nil { // refused before its body was received
		return t.r.ContentLength != 0
	}
	return t.body.unread()
}

// abort lets the client see that the rest of a response is missing, whose head is out.
func (t *roundTrip) abort() {
	if t.unread() && t.r.ProtoMajor == 1 {
		t.closeUnread()
	}
	panic(http.ErrAbortHandler)
}

// closeUnread ends a connection that the client still uploads to. net/http would wait
// for the upload first, with no limit.
func (t *roundTrip) closeUnread() {
	http.NewResponseController(t.w).Flush()
	// Hijack interrupts one read, and would wait for the next, for which Caddy sets a deadline
	// of its own. The access log counts what is read.
	t.body.stream.stopReading()
	// Wrappers would touch what a piece of the body is still being read through, and hide
	// how to end this side alone.
	conn, _, err := http.NewResponseController(tunnel.Innermost(t.w)).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	// Closing at once would reset the connection, and what the client has not read yet
	// would be lost.
	conn.SetDeadline(time.Now().Add(abandonedBody))
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		io.Copy(io.Discard, conn)
	}
}

const copyBufferSize = 32 << 10 // as io.Copy has it

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// copyBody copies the body and flushes what there is of it, unless all of it is here
// already.
func (t *roundTrip) copyBody(response *http.Response) error {
	if response.Body == http.NoBody || t.r.Method == http.MethodHead || response.StatusCode == http.StatusNotModified {
		return nil // its length, if any, is that of another response (RFC 9110, section 8.6)
	}
	flush := func() error { return nil }
	if !complete(response) {
		flush = t.flush
	}
	if err := flush(); err != nil {
		return err
	}
	buf := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buf)
	missing := response.ContentLength // below 0 for none announced
	for {
		n, err := response.Body.Read(buf[:])
		missing -= int64(n)
		if err == io.EOF && missing > 0 {
			err = io.ErrUnexpectedEOF // over HTTP/3 nobody else looks (RFC 9114, section 4.1.2)
		}
		if n > 0 {
			if _, err := t.w.Write(buf[:n]); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			t.brokeOff()
			return err
		}
	}
}

// complete reports whether reading the body will not wait.
func complete(response *http.Response) bool {
	body, ok := response.Body.(interface{ Buffered() int })
	return ok && response.ContentLength >= 0 && int64(body.Buffered()) >= response.ContentLength && len(response.Trailer) == 0
}

func (t *roundTrip) flush() error {
	err := http.NewResponseController(t.w).Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// writeTrailer sets the trailers, which are known now.
func writeTrailer(header, trailer http.Header, announced int) {
	prefix := ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix // the relay sent more than it announced
	}
	for field, values := range trailer {
		if forward.ResponseTrailer(field) {
			header[prefix+field] = values
		}
	}
}
