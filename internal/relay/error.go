package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Stage is how far a request got before its relay failed.
type Stage string

// The stages, as metrics and logs name them.
const (
	StageDNS      Stage = "dns"
	StageConnect  Stage = "connect"
	StageTLS      Stage = "tls"
	StageTimeout  Stage = "timeout"  // no response in time
	StageStatus   Stage = "status"   // a handshake got a response other than 101
	StageInvalid  Stage = "invalid"  // the response was not valid, or broke off
	StageCanceled Stage = "canceled" // the client, or the process, gave up
)

// Stages returns the names of all of them.
func Stages() (names []string) {
	for _, s := range []Stage{StageDNS, StageConnect, StageTLS, StageTimeout, StageStatus, StageInvalid, StageCanceled} {
		names = append(names, string(s))
	}
	return names
}

// Error is a relay's failure. Its text names the relay, and holds nothing of the
// request: what a relay sends may repeat it, and with it the client's secrets.
type Error struct {
	Stage Stage
	Relay string // its name
	reason
	connected bool // the request had its connection, and may have been written
}

type reason struct {
	text string
	err  error
}

func (e *Error) Error() string {
	switch e.Stage {
	case StageDNS, StageConnect, StageTLS:
		return "connecting to " + e.Relay + ": " + e.text
	}
	return e.Relay + " " + e.text
}

// Unwrap returns the cause, whose text may hold secrets.
func (e *Error) Unwrap() error { return e.err }

// Unsent reports whether no byte of the request can have reached the relay. TLS may also
// fail later: a relay's alert and a record that cannot be read come at any time.
func (e *Error) Unsent() bool { return e.connecting() && !e.connected }

// connecting reports whether the failure is one of those that connecting has.
func (e *Error) connecting() bool {
	return e.Stage == StageDNS || e.Stage == StageConnect || e.Stage == StageTLS
}

// Down reports whether the relay could not be reached, or did not respond in time. An
// invalid response leaves open whether others fare better, and what this machine is short
// of says nothing about the relay.
func (e *Error) Down() bool {
	return (e.connecting() || e.Stage == StageTimeout) && !e.shortage()
}

// shortages are what a process gets that is out of descriptors, ports or memory for
// another connection (socket(2), bind(2), connect(2)).
var shortages = []syscall.Errno{
	syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.ENOBUFS, syscall.ENOMEM,
}

func (e *Error) shortage() bool {
	return (e.Stage == StageDNS || e.Stage == StageConnect) && isShortage(e.err)
}

// isShortage reports whether a connection failed for a shortage, and those to several
// addresses for nothing else: where this machine has no IPv6, an address of IPv6 always
// fails with EADDRNOTAVAIL. It goes by the text, since Caddy's DialError hides its cause.
func isShortage(err error) bool {
	var all *allFailed
	if errors.As(err, &all) {
		return !slices.ContainsFunc(all.each, func(f failed) bool { return !isShortage(f.err) })
	}
	return slices.ContainsFunc(shortages, func(errno syscall.Errno) bool { return strings.Contains(err.Error(), errno.Error()) })
}

// Timeout reports whether the relay took too long.
func (e *Error) Timeout() bool {
	if e.Stage == StageTLS {
		return isTimeout(e.err)
	}
	return e.Stage == StageTimeout
}

// Invalid returns the failure of a relay whose response is not valid; why is part of
// a sentence that begins with the relay.
func (r *Relay) Invalid(why string, err error) *Error {
	return &Error{Stage: StageInvalid, Relay: r.Name, reason: reason{why, err}}
}

// Late returns the failure of a relay that responded just when limit was over.
func (r *Relay) Late(limit *Limit) *Error {
	return r.failure(limit.Context, context.Cause(limit.Context), true)
}

// failure classifies the error of a round trip under ctx. connected says that the request
// had its connection.
func (r *Relay) failure(ctx context.Context, err error, connected bool) *Error {
	e := &Error{Relay: r.Name, reason: reason{err: err}}
	var limit *TimeoutError
	var dial *dialError
	switch {
	case errors.As(context.Cause(ctx), &limit):
		e.Stage, e.text = StageTimeout, fmt.Sprintf("did not respond within handshake_timeout (%s)", limit.After)
	case ctx.Err() != nil:
		e.Stage, e.text, e.err = StageCanceled, "was no longer needed", context.Cause(ctx)
	case errors.As(err, &dial):
		e.Stage, e.text = dial.stage, bounded(dial.Error())
	case isTLS(err): // over a forward proxy, where http.Transport does it, or after the handshake
		e.Stage, e.text, e.connected = StageTLS, bounded(tlsText(err)), connected
	case isTimeout(err):
		e.Stage, e.text = StageTimeout, "did not respond in the time that the transport allows"
	default:
		e.Stage, e.text = StageInvalid, brokenText(err)
	}
	return e
}

// dialError is a failure to open a connection.
type dialError struct {
	stage Stage
	error
}

func (e *dialError) Unwrap() error { return e.error }

func (e *dialError) Error() string {
	if e.stage == StageTLS {
		return tlsText(e.error)
	}
	return e.error.Error()
}

// maxText bounds an error's text in bytes: a certificate may name any number of
// hosts.
const maxText = 512

func bounded(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

func tlsText(err error) string {
	text := err.Error()
	if strings.Contains(text, "tls: ") {
		return text
	}
	return "tls: " + text
}

func isTLS(err error) bool {
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var host x509.HostnameError
	var op *net.OpError
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) ||
		errors.As(err, &host) || errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error")
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// brokenText says in words of our own why there is no response: net/http quotes
// what the relay has sent.
func brokenText(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err.Error() == "http: server closed idle connection":
		return "closed the connection before it responded"
	case strings.Contains(err.Error(), "header list larger than peer's advertised limit"): // over HTTP/2
		return "does not take a request with so large a head"
	case errors.As(err, &errno):
		return "broke the connection before it responded: " + errno.Error()
	}
	return "did not send a valid HTTP response"
}

// TimeoutError is why a Limit ends a request.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string { return fmt.Sprintf("no response within %s", e.After) }

// Timeout makes TimeoutError a net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// Temporary makes TimeoutError a net.Error.
func (e *TimeoutError) Temporary() bool { return true }
