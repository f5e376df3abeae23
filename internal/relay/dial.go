package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// dialFunc is the type of http.Transport's dialers.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// staged tells failures of DNS from those to connect. Caddy's transport hides the
// type of the error.
func staged(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		stage := StageConnect
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			DNSDone: func(done httptrace.DNSDoneInfo) {
				if done.Err != nil {
					stage = StageDNS
				}
			},
		})
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, &dialError{stage, err}
		}
		return conn, nil
	}
}

// overTLS adds the TLS handshake, within timeout unless that is 0. Caddy's transport
// and http.Transport have dialers of their own for it, which do not say what failed;
// Caddy's does not look at the address for the name to verify either. connected is
// told of each handshake that succeeds.
func overTLS(dial dialFunc, config *tls.Config, timeout time.Duration, protocols []string, connected func(*tls.ConnectionState)) dialFunc {
	config = config.Clone()
	config.NextProtos = protocols
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		tlsConn := tls.Client(conn, named(config, ctx, addr))
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &dialError{StageTLS, err}
		}
		state := tlsConn.ConnectionState()
		connected(&state)
		if keeper, ok := conn.(*responseKeeper); ok && state.NegotiatedProtocol == "h2" {
			keeper.off = true
		}
		return tlsConn, nil
	}
}

// named returns config with the name to verify: tls_server_name, in which Caddy
// replaces placeholders per request, or else the host of addr.
func named(config *tls.Config, ctx context.Context, addr string) *tls.Config {
	name := config.ServerName
	switch {
	case name == "":
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		name = host
	case strings.Contains(name, "{"):
		if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			name = repl.ReplaceAll(name, "")
		}
	}
	if name == config.ServerName {
		return config
	}
	config = config.Clone()
	config.ServerName = name
	return config
}

// keepingResponses has http.Transport read the response of a relay that responds
// and closes the connection without reading the request. A failed write makes
// http.Transport forget what there is to read.
func keepingResponses(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &responseKeeper{Conn: conn, readOver: make(chan struct{})}, nil
	}
}

// responseKeeper reports that the peer has closed the connection to its reader
// first: a write that fails for this waits until the reader has reached the end. The
// reader reaches it without waiting, or closes the connection. Not so in HTTP/2, where
// it writes too, and would wait for the writer: there this is off.
type responseKeeper struct {
	net.Conn
	off      bool
	once     sync.Once
	readOver chan struct{}
}

// Ended returns a channel that is closed when nothing more can be read from conn. It is
// nil where that is not known, as over HTTP/2.
func Ended(conn net.Conn) <-chan struct{} {
	if layer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = layer.NetConn()
	}
	if keeper, ok := conn.(*responseKeeper); ok && !keeper.off {
		return keeper.readOver
	}
	return nil
}

func (c *responseKeeper) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !isTimeout(err) {
		c.endRead()
	}
	return n, err
}

func (c *responseKeeper) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if !c.off && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
		<-c.readOver
	}
	return n, err
}

// SetWriteDeadline is what crypto/tls does before it says farewell: nobody reads any
// more.
func (c *responseKeeper) SetWriteDeadline(t time.Time) error {
	c.endRead()
	return c.Conn.SetWriteDeadline(t)
}

func (c *responseKeeper) Close() error {
	c.endRead()
	return c.Conn.Close()
}

func (c *responseKeeper) endRead() { c.once.Do(func() { close(c.readOver) }) }
