package check

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

const (
	// maxResponse is how much is read of a response, its head and its body together,
	// in bytes.
	maxResponse = 64 << 10
	// maxInformational is how many 1xx may come before a response.
	maxInformational = 5
)

var (
	errNotHTTP  = errors.New("what came is not HTTP")
	errHTTP2    = errors.New("what came is HTTP/2")
	errTooLarge = errors.New("the head of the response does not end")
)

// exchange is a response, and the connection that it came on.
type exchange struct {
	*http.Response
	conn   net.Conn
	limit  *io.LimitedReader
	reader *bufio.Reader
	now    time.Time // when it came
}

// exchange sends a request over conn and reads the head of the response, until ctx
// ends.
func (r *run) exchange(ctx context.Context, conn net.Conn, request *http.Request) (*exchange, error) {
	defer boundBy(ctx, conn)()
	request.Header.Set("User-Agent", session)
	limit := &io.LimitedReader{R: conn, N: maxResponse}
	x := &exchange{conn: conn, limit: limit, reader: bufio.NewReader(limit)}
	// A server may respond and close without reading the request: what counts is
	// whether there is a response.
	writeErr := request.Write(conn)
	response, err := readResponse(x.reader, request)
	switch {
	case err == nil:
		x.Response, x.now = response, r.Now()
		return x, nil
	case limit.N == 0:
		return nil, errTooLarge
	case writeErr != nil && !isTimeout(err):
		return nil, writeErr
	}
	return nil, err
}

// readResponse reads the head of a response of HTTP/1.1, past those with 1xx.
func readResponse(reader *bufio.Reader, request *http.Request) (*http.Response, error) {
	// The shortest status line is longer, and so are a frame's head and the preface
	// of HTTP/2.
	start, err := reader.Peek(9)
	switch {
	case err != nil:
		return nil, err
	case string(start[:2]) == "\x00\x00" && start[3] == 4: // a SETTINGS frame (RFC 9113, section 3.4)
		return nil, errHTTP2
	case string(start[:7]) != "HTTP/1.":
		return nil, errNotHTTP
	}
	for range maxInformational {
		response, err := http.ReadResponse(reader, request)
		if err != nil && !isTimeout(err) && !isBroken(err) {
			return nil, errNotHTTP // net/http quotes what came
		}
		if err != nil || response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return response, err
		}
	}
	return nil, errNotHTTP
}

// boundBy ends what conn does when ctx ends. The function it returns undoes that.
func boundBy(ctx context.Context, conn net.Conn) (undo func()) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// body reads what the limit leaves of the body.
func (x *exchange) body(ctx context.Context) []byte {
	defer boundBy(ctx, x.conn)()
	body, _ := io.ReadAll(x.Body) // what is cut off is no JSON, and that is what it is read for
	return body
}

func (x *exchange) close() { x.conn.Close() }

// date returns the time that the server names (RFC 9110, section 6.6.1).
func (x *exchange) date() (time.Time, bool) {
	date, err := http.ParseTime(x.Header.Get("Date"))
	return date, err == nil
}

// skew returns by how much the server's clock is ahead of this computer's, 0 where
// that is not known or not worth a word.
func (x *exchange) skew() time.Duration {
	date, ok := x.date()
	if skew := date.Sub(x.now); ok && skew.Abs() > allowedSkew {
		return skew
	}
	return 0
}

// relayed reports that watchrtc_proxy has passed on a relay's response: it confines
// each in this way.
func (x *exchange) relayed() bool {
	return x.Header.Get("Content-Security-Policy") == "sandbox; default-src 'none'"
}

// readable reports whether a page of origin can read the response.
func (x *exchange) readable(origin string) bool {
	allowed := x.Header["Access-Control-Allow-Origin"]
	return len(allowed) == 1 && (allowed[0] == "*" || allowed[0] == origin)
}

// unanswered names the mistake where there is no response to a request.
func (r *run) unanswered(what string, err error) result {
	switch {
	case errors.Is(err, errHTTP2):
		return onlyHTTP2("it responded to HTTP/1.1 with HTTP/2")
	case errors.Is(err, errNotHTTP):
		return failed("the server does not speak HTTP", "what came is not a valid response", "see that the URL's port is the proxy's")
	case errors.Is(err, errTooLarge):
		return failed("the response is endless", "its head is larger than 64 KiB", "see what is at that address: it is not watchrtc_proxy")
	case isTimeout(err):
		return failed("there is no response to "+what, "nothing within "+r.Timeout.String(),
			"see in the proxy's log whether the request came there; something in between may hold it up")
	}
	return failed("there is no response to "+what, "the connection was ended",
		"something in between, such as a firewall, may not let it pass; see in the proxy's log whether it came there")
}

func isBroken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
