package relay

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// sharedDials is for quic-go's transport, which opens a connection in the context of the
// request that is the first to want it. All others wait for the same one, and would fail
// with that request: so it goes on until it is connected, without whoever has given up.
// quic-go bounds how long that takes.
type sharedDials struct{ http.RoundTripper }

func (t sharedDials) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(req.Context()))
	end := func() { cancel(context.Cause(req.Context())) }
	var decided atomic.Bool // it is connected, or has been given up before
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		decided.Store(true)
		if req.Context().Err() != nil {
			end() // at once: nothing must be sent any more
		}
		context.AfterFunc(req.Context(), end)
	}}
	type result struct {
		response *http.Response
		err      error
	}
	results := make(chan result, 1)
	go func() {
		response, err := t.RoundTripper.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
		results <- result{response, err}
	}()
	select {
	case r := <-results:
		return r.response, r.err
	case <-req.Context().Done():
	}
	if decided.CompareAndSwap(false, true) {
		return nil, context.Cause(req.Context())
	}
	r := <-results
	return r.response, r.err
}
