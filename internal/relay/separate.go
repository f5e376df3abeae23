package relay

import (
	"context"
	"net"
	"net/http"
	"slices"
)

// separateConns opens a connection for each request. http.Transport without keep-alive
// does not: requests that come together share one over HTTP/2, and find it closed when the
// first of them is over. So each gets a transport of its own. Caddy's HTTP/2 is not in it,
// because that has the same connections in all copies.
type separateConns struct {
	transport *http.Transport
	slots     chan struct{} // as many as the transport's max_conns_per_host; nil for no limit
}

func newSeparateConns(t *http.Transport) separateConns {
	s := separateConns{transport: t}
	if t.MaxConnsPerHost > 0 {
		s.slots = make(chan struct{}, t.MaxConnsPerHost)
	}
	return s
}

func (s separateConns) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.slots != nil {
		select {
		case s.slots <- struct{}{}:
			context.AfterFunc(req.Context(), func() { <-s.slots })
		case <-req.Context().Done():
			req.Body.Close()
			return nil, context.Cause(req.Context())
		}
	}
	own := s.transport.Clone()
	own.DialContext, own.DialTLSContext = untilOver(own.DialContext), untilOver(own.DialTLSContext)
	own.TLSNextProto = nil
	http2 := slices.Contains(own.TLSClientConfig.NextProtos, "h2")
	own.ForceAttemptHTTP2 = http2
	if own.Protocols != nil {
		own.Protocols.SetHTTP2(http2)
	}
	return own.RoundTrip(req)
}

// untilOver has a connection end with the request that it is opened for. One over HTTP/2
// would stay, for nobody, if the request is given up when it has just connected.
func untilOver(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if owner, ok := ctx.Value(ownerKey{}).(context.Context); ok && err == nil {
			context.AfterFunc(owner, func() { conn.Close() })
		}
		return conn, err
	}
}
