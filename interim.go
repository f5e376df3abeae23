package watchrtcproxy

import (
	"errors"
	"maps"
	"net/http"
	"net/textproto"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// interim passes 1xx responses on while the relay's final response is awaited (RFC 9110,
// section 15.2). A goroutine of its own writes them, for they come in one that may not wait
// for this client: over HTTP/2 that one reads what a relay sends to all.
//
// They wait while an HTTP/1.1 client uploads: net/http may write to the connection, or to
// the response's header, when the body is read (a 100, or that the body is too large). If
// the final response comes before the end of the upload, what waits is left out.
type interim struct {
	writing sync.WaitGroup // whoever writes what waits; nobody begins to when done is set

	mu      sync.Mutex // protects what follows
	done    bool       // the final response has come, or none will
	size    int        // of all that have come, as count has it; at most maxInterim
	waiting []interimResponse
	busy    bool // somebody writes the first that waits
}

type interimResponse struct {
	code   int
	header http.Header
}

const (
	// maxInterim bounds the memory that the 1xx responses to one request can take, all
	// together, in bytes. http.Transport leaves that to whoever passes them on.
	maxInterim = http.DefaultMaxHeaderBytes

	// What a response takes at most besides its text, and each of its fields.
	interimOverhead      = 512
	interimFieldOverhead = 64
)

var errEndlessInterim = errors.New("there is no end of 1xx responses")

// count counts a 1xx response, and reports whether that was one too many.
func (i *interim) count(fields textproto.MIMEHeader) (tooMany bool) {
	i.size += interimOverhead
	for field, values := range fields {
		for _, value := range values {
			i.size += interimFieldOverhead + len(field) + len(value)
		}
	}
	return i.size > maxInterim
}

// got1xx is for httptrace. It does not wait for the client. HTTP/1.0 has no 1xx responses,
// net/http sends a 100 of its own, and a 101 means nothing here.
func (t *roundTrip) got1xx(code int, fields textproto.MIMEHeader) error {
	i := &t.interim
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.count(fields) {
		return errEndlessInterim
	}
	if i.done || code <= http.StatusSwitchingProtocols || !t.r.ProtoAtLeast(1, 1) {
		return nil
	}
	header := http.Header(fields).Clone()
	forward.StripResponse(header)
	delete(header, "Content-Length") // RFC 9110, section 8.6
	i.waiting = append(i.waiting, interimResponse{code, header})
	t.begin1xxLocked()
	return nil
}

// uploaded is called when all of the client's body has been read.
func (t *roundTrip) uploaded() {
	t.interim.mu.Lock()
	defer t.interim.mu.Unlock()
	t.begin1xxLocked()
}

// begin1xxLocked has somebody write what waits, if it may be written. interim.mu is held.
func (t *roundTrip) begin1xxLocked() {
	i := &t.interim
	uploading := t.r.ProtoMajor == 1 && t.body.unread()
	if len(i.waiting) == 0 || i.busy || i.done || uploading {
		return
	}
	i.busy = true
	i.writing.Go(t.write1xx)
}

// write1xx writes what waits.
func (t *roundTrip) write1xx() {
	for more := true; more; more = t.interim.written() {
		t.writeInterim(t.interim.first())
	}
}

// first returns the response that is written now.
func (i *interim) first() interimResponse {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.waiting[0]
}

// written forgets the first response, and reports whether there are more.
func (i *interim) written() (more bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waiting[0] = interimResponse{}
	i.waiting = i.waiting[1:]
	i.busy = len(i.waiting) > 0
	return i.busy
}

// writeInterim leaves the header of the response as it was. It goes past what wraps the
// response, which might change the header and take Content-Length away again.
func (t *roundTrip) writeInterim(response interimResponse) {
	defer t.limitWrite()()
	w := tunnel.Innermost(t.w)
	header := w.Header()
	own := maps.Clone(header)
	maps.Copy(header, response.header)
	if t.r.ProtoMajor == 2 {
		// This is not sent, but has net/http copy the header first. Otherwise it may still
		// be reading it when WriteHeader has returned, as the client has reset the stream,
		// and the next lines would crash the process. HTTP/3 would send it.
		header["Content-Length"] = []string{"0"}
	}
	w.WriteHeader(response.code)
	clear(header)
	maps.Copy(header, own)
}

// limitWrite applies Caddy's write_idle, which Caddy does for what follows a header. Where
// the time is up nothing more can be written: over HTTP/3 it would follow a part of a frame.
func (t *roundTrip) limitWrite() (done func()) {
	_, writer := caddyhttp.IdleTimeoutsFromContext(t.r.Context())
	if writer == nil {
		return func() {}
	}
	hard := writer.Deadline.HardDeadline
	deadline := time.Now().Add(writer.Deadline.Timeout)
	if !hard.IsZero() && hard.Before(deadline) {
		deadline = hard
	}
	writer.SetWriteDeadline(deadline)
	return func() {
		if time.Now().Before(deadline) {
			writer.SetWriteDeadline(hard)
		}
	}
}

// stop1xx returns when nothing is written any more. Like the final response, which is next,
// that may wait for the client.
func (t *roundTrip) stop1xx() {
	i := &t.interim
	i.mu.Lock()
	t.begin1xxLocked()
	i.done = true
	i.mu.Unlock()
	i.writing.Wait()
}
