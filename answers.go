package watchrtcproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// statusClientClosed is what Caddy logs for a client that did not wait.
const statusClientClosed = 499

var (
	errHandshakeTimeout = errors.New("the relay did not answer within handshake_timeout")
	errDraining         = errors.New("the upstream is being drained")
	errBodyTooLarge     = errors.New("the request's body exceeds max_body_size")
	errLoop             = errors.New("the upstream leads back to this proxy")
	errBadAnswer        = errors.New("the relay's 101 is no valid answer to the handshake")
)

// refusal is an answer made here instead of by the relay.
type refusal struct {
	status     int
	err        error
	retryAfter time.Duration     // zero for no Retry-After
	header     map[string]string // besides those that each refusal has
}

func (f *refusal) Error() string { return f.err.Error() }

// refuse prepares w and returns the error that has Caddy write the answer. Page
// code can read it: an answer without Access-Control-Allow-Origin is hidden from
// other origins' pages.
func refuse(w http.ResponseWriter, r *http.Request, f *refusal) error {
	if allowPreflight(w, r, f) {
		return nil
	}
	header := w.Header()
	if origin := r.Header.Get("Origin"); origin != "" {
		header.Set("Access-Control-Allow-Origin", origin)
		header.Add("Vary", "Origin")
	}
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(f.retryAfter.Round(time.Second)/time.Second)))
	}
	for field, value := range f.header {
		header.Set(field, value)
	}
	return caddyhttp.Error(f.status, f.err)
}

// fail answers a request that err kept from reaching the relay or its answer.
func fail(w http.ResponseWriter, r *http.Request, ctx context.Context, err error) error {
	if r.Context().Err() != nil {
		w.WriteHeader(statusClientClosed)
		return nil
	}
	return refuse(w, r, failure(ctx, withoutSecrets(err, r)))
}

// failure classifies an error of a round trip under ctx.
func failure(ctx context.Context, err error) *refusal {
	var tooLarge *http.MaxBytesError
	var client clientError
	var dial reverseproxy.DialError
	var timeout net.Error
	switch {
	case errors.As(err, &tooLarge):
		return &refusal{status: http.StatusRequestEntityTooLarge, err: errBodyTooLarge}
	case errors.As(err, &client):
		return &refusal{status: http.StatusBadRequest, err: fmt.Errorf("reading the request's body: %w", err)}
	case errors.Is(context.Cause(ctx), errHandshakeTimeout):
		return &refusal{status: http.StatusGatewayTimeout, err: errHandshakeTimeout}
	case errors.As(err, &dial):
		return &refusal{status: http.StatusBadGateway, err: fmt.Errorf("connecting to the relay: %w", err)}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &refusal{status: http.StatusGatewayTimeout, err: err}
	default:
		return &refusal{status: http.StatusBadGateway, err: err}
	}
}

// secretParams are the parameters that hold secrets (SDK).
var secretParams = []string{"apiKey", "token"}

// withoutSecrets returns err, worded without the request's secrets should a relay
// have echoed them into it.
func withoutSecrets(err error, r *http.Request) error {
	text := err.Error()
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		for _, name := range secretParams {
			if secret, ok := strings.CutPrefix(pair, name+"="); ok {
				text = redact(text, secret)
			}
		}
	}
	if text == err.Error() {
		return err
	}
	return reworded{err, text}
}

// redact replaces a secret as it is in the query, and as it reads.
func redact(text, secret string) string {
	plain, err := url.QueryUnescape(secret)
	if err != nil {
		plain = secret
	}
	for _, s := range []string{secret, plain} {
		if s != "" {
			text = strings.ReplaceAll(text, s, "REDACTED")
		}
	}
	return text
}

// reworded is an error with another text.
type reworded struct {
	error
	text string
}

func (e reworded) Error() string { return e.text }
func (e reworded) Unwrap() error { return e.error }
