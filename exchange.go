package watchrtcproxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync"
)

// serveExchange carries a plain HTTP request to the relay and its answer back,
// both as they come.
func (h *Handler) serveExchange(w http.ResponseWriter, r *http.Request, path string) error {
	if r.ContentLength > h.MaxBodySize {
		return refuse(w, r, &refusal{status: http.StatusRequestEntityTooLarge, err: errBodyTooLarge})
	}
	limit := newDeadline(r.Context(), h.handshakeTimeout())
	defer limit.end()
	defer limit.endWith(stopping.done)()
	limit.pause()
	informational := &informational{w: w}
	setTransportVars(r, false)
	out := h.outbound(withTrace(limit, informational), r, path)
	setBody(out, w, r, h.MaxBodySize)
	h.applyRequestOps(out)

	answer, err := h.transports.roundTrip(out)
	informational.stop()
	limit.pause()
	if err == nil && answer.StatusCode == http.StatusSwitchingProtocols {
		answer.Body.Close()
		err = errBadAnswer
	}
	if err != nil {
		return fail(w, r, limit.ctx, err)
	}
	defer answer.Body.Close()
	h.writeAnswerHeader(w, r, answer)
	return writeAnswer(w, answer)
}

// withTrace has the deadline leave out the time that the client takes for its
// body, and passes 1xx answers on.
func withTrace(limit *deadline, informational *informational) context.Context {
	return httptrace.WithClientTrace(limit.ctx, &httptrace.ClientTrace{
		GetConn:        func(string) { limit.resume() },
		GotConn:        func(httptrace.GotConnInfo) { limit.pause() },
		WroteRequest:   func(httptrace.WroteRequestInfo) { limit.resume() },
		Got1xxResponse: informational.write,
	})
}

// informational passes 1xx answers on while the relay's final answer is awaited
// (RFC 9110, section 15.2).
type informational struct {
	mu sync.Mutex // protects w and done: the transport may call late
	w  http.ResponseWriter

	done bool
}

func (i *informational) write(code int, fields textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.done || code == http.StatusContinue {
		return nil // net/http sends its own 100
	}
	header := i.w.Header()
	own := maps.Clone(header)
	from := http.Header(fields)
	strip(from, notToClient)
	maps.Copy(header, from)
	i.w.WriteHeader(code)
	clear(header)
	maps.Copy(header, own)
	return nil
}

func (i *informational) stop() {
	i.mu.Lock()
	i.done = true
	i.mu.Unlock()
}

// setBody gives out r's body and trailers, up to limit bytes.
func setBody(out *http.Request, w http.ResponseWriter, r *http.Request, limit int64) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		// Not nil: http.Transport sends a GET again when a kept connection has
		// failed, unless it has a body. A request is never sent twice here.
		out.Body, out.ContentLength = emptyBody{}, 0
		return
	}
	out.ContentLength = r.ContentLength
	body := &requestBody{ReadCloser: r.Body}
	if r.ContentLength < 0 {
		body.ReadCloser = http.MaxBytesReader(w, r.Body, limit)
	}
	out.Body = body
	if len(r.Trailer) > 0 {
		body.from = r
		body.trailer = allowedTrailer(r.Trailer)
		out.Trailer = body.trailer
		out.ContentLength = -1 // trailers need chunks (RFC 9112, section 7.1.2)
	}
}

// emptyBody is a body of no bytes that cannot be rewound.
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }

// requestBody hands the announced trailers over when the body has been read.
type requestBody struct {
	io.ReadCloser
	from    *http.Request // nil where no trailers were announced
	trailer http.Header
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = clientError{err}
	}
	if err == io.EOF && b.from != nil {
		for field := range b.trailer {
			b.trailer[field] = b.from.Trailer[field]
		}
	}
	return n, err
}

// clientError is a failure to read the client's body.
type clientError struct{ error }

func (e clientError) Unwrap() error { return e.error }

// allowedTrailer returns the announced fields that may go to the relay, without
// values. X-Forwarded-* are said in the header or not at all.
func allowedTrailer(announced http.Header) http.Header {
	allowed := make(http.Header)
	for field := range announced {
		forwarding := field == "Forwarded" || len(field) > 12 && field[:12] == "X-Forwarded-"
		if !forwarding && !slices.Contains(notToRelay, field) {
			allowed[field] = nil
		}
	}
	return allowed
}

// writeAnswer writes the relay's status, body and trailers. What comes without a
// length may come bit by bit, and goes out so.
func writeAnswer(w http.ResponseWriter, answer *http.Response) error {
	announced := len(answer.Trailer)
	for field := range answer.Trailer {
		if !slices.Contains(notToClient, field) {
			w.Header().Add("Trailer", field)
		}
	}
	streamed := answer.ContentLength < 0
	if announced > 0 && answer.Body != http.NoBody {
		// HTTP/2 has trailers behind a body with a length, HTTP/1.1 has not.
		delete(w.Header(), "Content-Length")
		streamed = true
	}
	w.WriteHeader(answer.StatusCode)
	var dst io.Writer = w
	if streamed {
		flusher := http.NewResponseController(w)
		if announced > 0 {
			flusher.Flush() // or net/http gives a short answer a length, and drops the trailers
		}
		dst = flushWriter{w, flusher}
	}
	buf := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buf)
	if _, err := io.CopyBuffer(onlyWriter{dst}, answer.Body, buf[:]); err != nil {
		// The head is out: all that is left is to let the client see that the rest
		// is missing.
		panic(http.ErrAbortHandler)
	}
	writeTrailer(w.Header(), answer.Trailer, announced)
	return nil
}

const copyBufferSize = 32 << 10 // as io.Copy has it

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// writeTrailer sets the trailers, which are known now.
func writeTrailer(header, trailer http.Header, announced int) {
	prefix := ""
	if len(trailer) != announced {
		prefix = http.TrailerPrefix // the relay sent more than it announced
	}
	for field, values := range trailer {
		if !slices.Contains(notToClient, field) {
			header[prefix+field] = values
		}
	}
}

// onlyWriter hides ReadFrom, which would wait for a full buffer.
type onlyWriter struct{ io.Writer }

// flushWriter sends each piece at once.
type flushWriter struct {
	io.Writer
	flusher *http.ResponseController
}

func (w flushWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		return n, err
	}
	if err := w.flusher.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return n, err
	}
	return n, nil
}
