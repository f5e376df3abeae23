package watchrtcproxy

import (
	"errors"
	"maps"
	"net/http"
	"net/textproto"
	"sync"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/forward"
)

// interim passes 1xx responses on while the relay's final response is awaited (RFC 9110,
// section 15.2). A goroutine of its own writes them, for they come in one that may not wait
// for this client: over HTTP/2 that one reads what a relay sends to all.
type interim struct {
	writing sync.WaitGroup // whoever writes what waits; nobody begins to when done is set

	mu      sync.Mutex // protects what follows
	done    bool       // the final response has come, or none will
	size    int        // of all that have come, as count has it; at most maxInterim
	waiting []interimResponse
}

type interimResponse struct {
	code   int
	header http.Header
}

// maxInterim bounds the 1xx responses to one request, together, in bytes. http.Transport
// leaves that to whoever passes them on.
const maxInterim = http.DefaultMaxHeaderBytes

var errEndlessInterim = errors.New("there is no end of 1xx responses")

// count counts a 1xx response, and reports whether that was one too many.
func (i *interim) count(fields textproto.MIMEHeader) (tooMany bool) {
	i.size += len("HTTP/1.1 100 \r\n\r\n")
	for field, values := range fields {
		for _, value := range values {
			i.size += len(field) + len(": \r\n") + len(value)
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
	if len(i.waiting) == 1 {
		i.writing.Go(t.write1xx)
	}
	return nil
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
	return len(i.waiting) > 0
}

// writeInterim leaves the header of the response as it was.
func (t *roundTrip) writeInterim(response interimResponse) {
	header := t.w.Header()
	own := maps.Clone(header)
	maps.Copy(header, response.header)
	if t.r.ProtoMajor == 2 {
		// This is not sent, but has net/http copy the header first. Otherwise it may still
		// be reading it when WriteHeader has returned, as the client has reset the stream,
		// and the next lines would crash the process. HTTP/3 would send it.
		header["Content-Length"] = []string{"0"}
	}
	t.w.WriteHeader(response.code)
	clear(header)
	maps.Copy(header, own)
}

// stop returns when nothing is written any more. Like the final response, which is next,
// that may wait for the client.
func (i *interim) stop() {
	i.mu.Lock()
	i.done = true
	i.mu.Unlock()
	i.writing.Wait()
}
