package relay

import (
	"net/http"
	"slices"
)

// separateConns opens a connection for each request. http.Transport without keep-alive
// does not: requests that come together share one over HTTP/2, and find it closed when the
// first of them is over. So each gets a transport of its own. Caddy's HTTP/2 is not in it,
// because that has the same connections in all copies.
type separateConns struct{ transport *http.Transport }

func (s separateConns) RoundTrip(req *http.Request) (*http.Response, error) {
	own := s.transport.Clone()
	own.TLSNextProto = nil
	http2 := slices.Contains(own.TLSClientConfig.NextProtos, "h2")
	own.ForceAttemptHTTP2 = http2
	if own.Protocols != nil {
		own.Protocols.SetHTTP2(http2)
	}
	return own.RoundTrip(req)
}
