package relay

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"iter"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialFunc is the type of http.Transport's dialers.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer opens connections to the relay, or to the forward proxy that leads to it: to
// any of the addresses that its name has.
type dialer struct {
	// connect is Caddy's: one address, within dial_timeout, with all that the
	// transport's options say.
	connect dialFunc
	// secure adds TLS to a connection to host; nil for none.
	secure func(ctx context.Context, conn net.Conn, host string) (net.Conn, error)
	*lookups
}

// lookups is how a transport finds addresses, and what it makes of them.
type lookups struct {
	// lookUp asks DNS, within a bounded time. It asks for all who dial at the moment, so
	// it ends with none of them.
	lookUp       func(host string) ([]netip.Addr, error)
	delay        time.Duration // before the next address is tried
	failDuration time.Duration // how long an address that failed is tried last
	transport    string        // tells transports apart
	served       func(stage Stage, text string)
}

func lookupsOf(t *reverseproxy.HTTPTransport, options Options) *lookups {
	servers, reachable := resolversOf(t), reachableFrom(t.LocalAddress)
	timeout := min(time.Duration(t.DialTimeout), options.Timeout)
	return &lookups{
		lookUp: func(host string) ([]netip.Addr, error) {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			return lookUp(ctx, servers, host, reachable)
		},
		delay:        cmp.Or(time.Duration(t.FallbackDelay), connectDelay),
		failDuration: options.FailDuration,
		transport:    options.Transport,
		served:       options.Served,
	}
}

// reachableFrom tells which addresses can be connected to from local, the transport's
// local_address: those of its family.
func reachableFrom(local string) func(netip.Addr) bool {
	address, err := caddy.ParseNetworkAddressWithDefaults(local, "tcp", 0)
	from, parseErr := netip.ParseAddr(address.Host)
	if local == "" || err != nil || parseErr != nil || from.IsUnspecified() {
		return func(netip.Addr) bool { return true }
	}
	return func(addr netip.Addr) bool { return addr.Is4() == from.Unmap().Is4() }
}

// dial is an http.Transport's DialContext, or its DialTLSContext where there is TLS.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := withOwner(ctx)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || isIP(host) {
		return d.attempt(ctx, network, address, address, func() {})
	}
	name := names.get(nameKey{address, d.secure != nil, d.transport})
	addrs, err := name.resolve(ctx, func() ([]netip.Addr, error) { return d.lookUp(host) })
	switch {
	case addrs == nil:
		return nil, &dialError{StageDNS, err}
	case err != nil:
		d.served(StageDNS, bounded(err.Error())+"; the last good answer serves")
	}
	r := &race{
		name: name, addrs: name.order(addrs, d.failDuration), delay: d.delay, served: d.served,
		attempt: func(ctx context.Context, addr netip.Addr, connected func()) (net.Conn, error) {
			return d.attempt(ctx, network, net.JoinHostPort(addr.String(), port), address, connected)
		},
	}
	return r.run(ctx)
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// attempt connects to one address of what was asked for, a host and a port.
func (d *dialer) attempt(ctx context.Context, network, address, asked string, connected func()) (net.Conn, error) {
	conn, err := d.connect(ctx, network, address)
	if err != nil {
		return nil, &dialError{StageConnect, err}
	}
	if d.secure == nil {
		return conn, nil
	}
	connected()
	return d.secure(ctx, conn, asked)
}

// ownerKey is where a context has the context of the request that it is for.
type ownerKey struct{}

// owned has the connection that ctx opens end with ctx, also where http.Transport would
// go on connecting when the request has given up.
func owned(ctx context.Context) context.Context {
	return context.WithValue(ctx, ownerKey{}, ctx)
}

// withOwner returns a context that ends when the request ends that ctx is for.
func withOwner(ctx context.Context) (context.Context, func()) {
	owner, ok := ctx.Value(ownerKey{}).(context.Context)
	if !ok {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(owner, func() { cancel(context.Cause(owner)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// unready are the connections to forward proxies that no request has had yet: what keeps
// each from being closed, by net.Conn as its dialer has returned it.
var unready sync.Map // of func() bool

// untilReady has a connection to a forward proxy end with the request that it is opened
// for, until a request has it. http.Transport goes on talking to the forward proxy when
// that request has given up: for a minute at most, and to one for SOCKS without any limit.
func untilReady(dial dialFunc, isRelay func(address string) bool) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		owner, ok := ctx.Value(ownerKey{}).(context.Context)
		if err != nil || !ok || isRelay(address) {
			return conn, err
		}
		tied := make(chan struct{})
		unready.Store(conn, context.AfterFunc(owner, func() {
			<-tied
			if _, own := unready.LoadAndDelete(conn); own { // else a request has it by now
				conn.Close()
			}
		}))
		close(tied)
		if c, ok := ctx.Value(connectingKey{}).(*connecting); ok {
			c.begin(conn)
		}
		return conn, nil
	}
}

// connectingKey is where a context has the *connecting of the request that it is for.
type connectingKey struct{}

// connecting is the connection to a forward proxy that a request opens. When TLS with the
// relay is done it is kept, whoever has it: a request that was given another one meanwhile
// leaves it to others, and must not take it along when it ends.
type connecting struct {
	mu         sync.Mutex // protects what follows
	conn       net.Conn   // nil for none
	handshakes int        // of TLS, until the last of them is done
}

func (c *connecting) begin(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.handshakes = conn, 1
	if _, ok := conn.(*tls.Conn); ok { // http.Transport reports that of the forward proxy, too
		c.handshakes++
	}
}

// secured is for httptrace.
func (c *connecting) secured(_ tls.ConnectionState, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handshakes--; err == nil && c.conn != nil && c.handshakes == 0 {
		ready(c.conn)
	}
}

// ready says that a request has conn.
func ready(conn net.Conn) {
	for layer := range layers(conn) {
		if keep, ok := unready.LoadAndDelete(layer); ok {
			keep.(func() bool)()
		}
	}
}

// layers are conn and what is below it: there is more than one of TLS where a forward
// proxy is reached over TLS.
func layers(conn net.Conn) iter.Seq[net.Conn] {
	return func(yield func(net.Conn) bool) {
		for yield(conn) {
			layer, ok := conn.(interface{ NetConn() net.Conn })
			if !ok {
				return
			}
			conn = layer.NetConn()
		}
	}
}

// overTLS does the TLS handshake, within timeout unless that is 0. Caddy's transport and
// http.Transport have dialers of their own for it, which do not say what failed; Caddy's
// does not look at the address for the name to verify either. connected is told of each
// handshake that succeeds.
func overTLS(config *tls.Config, timeout time.Duration, protocols []string, connected func(asked string, state tls.ConnectionState)) func(context.Context, net.Conn, string) (net.Conn, error) {
	config = config.Clone()
	config.NextProtos = protocols
	return func(ctx context.Context, conn net.Conn, asked string) (net.Conn, error) {
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		host, _, _ := net.SplitHostPort(asked) // connecting has split it before
		tlsConn := tls.Client(conn, named(config, ctx, host))
		if err := tlsConn.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &dialError{StageTLS, err}
		}
		state := tlsConn.ConnectionState()
		connected(asked, state)
		return tlsConn, nil
	}
}

// serverNameKey is where a context has the name to verify, if tls_server_name has
// placeholders.
type serverNameKey struct{}

// named returns config with the name to verify: tls_server_name, or else host.
func named(config *tls.Config, ctx context.Context, host string) *tls.Config {
	name := cmp.Or(config.ServerName, host)
	if replaced, ok := ctx.Value(serverNameKey{}).(string); ok {
		name = replaced
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
// first: until the reader has reached the end, what is written goes nowhere, and no write
// fails for this. A write that waited for the reader would hold the lock of TLS's
// sending side meanwhile, and the reader may need that one, for an alert or new keys. The
// reader reaches the end without waiting, or closes the connection. Not so while TLS or a
// forward proxy's CONNECT is under way, and in HTTP/2, which has no use for it: this is on
// only once a request has the connection over HTTP/1.1.
type responseKeeper struct {
	net.Conn
	on       atomic.Bool
	once     sync.Once
	readOver chan struct{}
}

// keepResponses is for httptrace: conn is what a request goes over.
func keepResponses(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok && secure.ConnectionState().NegotiatedProtocol == "h2" {
		return
	}
	if keeper := keeperOf(conn); keeper != nil {
		keeper.on.Store(true)
	}
}

// keeperOf returns the responseKeeper among conn's layers, or nil.
func keeperOf(conn net.Conn) *responseKeeper {
	for layer := range layers(conn) {
		if keeper, ok := layer.(*responseKeeper); ok {
			return keeper
		}
	}
	return nil
}

// Ended returns a channel that is closed when nothing more can be read from conn. It is
// nil where that is not known, as over HTTP/2.
func Ended(conn net.Conn) <-chan struct{} {
	if keeper := keeperOf(conn); keeper != nil && keeper.on.Load() {
		return keeper.readOver
	}
	return nil
}

// Drop closes the connection that a request went over, and with it whatever else is under
// way there. It does not wait: TLS's farewell could. Over HTTP/3 it does nothing.
func Drop(conn net.Conn) {
	if keeper := keeperOf(conn); keeper != nil {
		keeper.Close()
	} else if _, ok := conn.(syscall.Conn); ok { // quic-go's stand-in for one is not to be touched
		conn.Close()
	}
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
	if c.on.Load() && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) && !c.isReadOver() {
		return len(p), nil
	}
	return n, err
}

func (c *responseKeeper) isReadOver() bool {
	select {
	case <-c.readOver:
		return true
	default:
		return false
	}
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
