package watchrtcproxy

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// stopping is how the process stops, as far as this module is concerned.
var stopping = newStopLimit()

func init() {
	// By then every configuration has given up its leases.
	caddy.OnExit(func(context.Context) { stopping.wait() })
}

const (
	// stopMargin is what Caddy needs to end when nothing holds it up any more: net/http
	// waits for half a second before it closes a connection with an upload that was given
	// up, Caddy's servers look every half second and a little more, and we every exitInterval.
	// A busy machine takes longer.
	stopMargin = 1500*time.Millisecond + exitInterval

	// loggingMargin is the part of stopMargin in which tunnels that were cut at the
	// end are logged.
	loggingMargin = 300 * time.Millisecond

	// lastFrames is how long the servers have to end the streams of the last tunnels.
	lastFrames = 50 * time.Millisecond

	// farewell is how long a connection that carries nothing may last when the time was
	// up before: net/http closes one that takes its GOAWAY within a second.
	farewell = 2 * time.Second

	// exitInterval is how often the process is asked whether it exits, where nobody
	// else says so.
	exitInterval = 50 * time.Millisecond
)

// stopLimit bounds how long the process takes to stop: the longest drain, and 5 s.
// Without a grace_period, Caddy waits until each request is over and each HTTP/2 and
// HTTP/3 client has closed its connection, and a client that is gone, or slow, or has
// stopped reading, never does. So when the time is up, whatever carried this module's
// requests is closed.
type stopLimit struct {
	begun context.Context // done when the process begins to stop
	done  context.Context // done when its time is up

	begin  func()
	finish context.CancelCauseFunc // ends done
	watch  *time.Timer             // runs lookForExit

	// conns are the open connections over HTTP/1.1 and HTTP/2 of the servers that have
	// this module: *clientConn by net.Conn. Tunnels over HTTP/1.1 are not among them.
	conns sync.Map

	// http3Servers are those of the servers that have this module, from their shutdown or
	// its first request over HTTP/3 on. Nobody here can reach a QUIC connection. At most one
	// is added for each server of a configuration, and it goes with that.
	http3Servers sync.Map // of weak.Pointer[http3.Server]
}

func newStopLimit() *stopLimit {
	s := new(stopLimit)
	var begun context.CancelCauseFunc
	s.begun, begun = context.WithCancelCause(context.Background())
	s.done, s.finish = context.WithCancelCause(context.Background())
	s.begin = sync.OnceFunc(func() {
		limit := tunnels.Stop()
		begun(errDraining)
		time.AfterFunc(limit-stopMargin, s.interrupt)
	})
	s.watch = time.AfterFunc(exitInterval, s.lookForExit)
	s.watch.Stop() // until a configuration goes
	return s
}

// noteExit begins to stop if the process does. Whichever of a server's shutdown, a
// configuration's Cleanup and the process's exit comes first calls it first.
func (s *stopLimit) noteExit() {
	if caddy.Exiting() {
		s.begin()
	}
}

// released is called when a configuration has given up a lease.
func (s *stopLimit) released() { s.watch.Reset(exitInterval) }

// lookForExit notes the process's exit while no configuration has this module and old
// servers still have clients: Caddy waits for those before it calls anything of ours.
func (s *stopLimit) lookForExit() {
	if s.begun.Err() != nil || tunnels.Leased() || !s.hasClients() {
		return
	}
	s.noteExit()
	s.watch.Reset(exitInterval)
}

// hasClients reports whether there may be clients' connections other than tunnels.
func (s *stopLimit) hasClients() (has bool) {
	found := func(_, _ any) bool { has = true; return false }
	s.conns.Range(found)
	s.http3Servers.Range(found)
	return has
}

// track has the connection that r came over closed when the time is up. That it
// outlives r is intended: net/http may still be reading the rest of its body, and an
// HTTP/3 client that has vanished holds Caddy up after its last response.
func (s *stopLimit) track(r *http.Request) {
	late := func() bool { return s.done.Err() != nil } // interrupt closes what is tracked before
	if server, ok := r.Context().Value(http3.ServerContextKey).(*http3.Server); ok {
		s.trackHTTP3(server)
		if late() {
			go server.Close()
		}
	} else if conn, ok := r.Context().Value(connKey{}).(*clientConn); ok {
		conn.carries.Store(ours)
		if late() {
			conn.close()
		}
	}
}

// trackHTTP3 may come when the configuration has gone already, so it has lookForExit look
// again.
func (s *stopLimit) trackHTTP3(server *http3.Server) {
	key := weak.Make(server)
	if _, known := s.http3Servers.LoadOrStore(key, struct{}{}); !known {
		runtime.AddCleanup(server, func(key weak.Pointer[http3.Server]) { s.http3Servers.Delete(key) }, key)
		s.watch.Reset(exitInterval)
	}
}

// clientConn is a client's connection.
type clientConn struct {
	net.Conn
	cancel  context.CancelFunc
	carries atomic.Int32 // nothing, others or ours
	unused  *time.Timer  // closes it if it has carried nothing for farewell; for connState alone
}

// close closes the connection without a goodbye, which could wait for the peer, and ends
// its requests. Over HTTP/1.1 net/http would notice only where somebody reads, and nobody
// does when the next request has begun to come, or when what is left of a body is not
// wanted: an error route would go on waiting for whatever it has asked, and Caddy for it.
func (c *clientConn) close() {
	tunnel.BelowTLS(c.Conn).Close()
	c.cancel()
}

func (c *clientConn) closeIfUnused() {
	if c.carries.Load() == nothing {
		c.close()
	}
}

// What a connection carries. One that carries nothing may hold Caddy up for as long as
// its client takes nothing, and nobody would miss it.
const (
	nothing int32 = iota // no request is under way, and none of this module was
	others               // requests, none of this module
	ours                 // requests of this module, or has carried some
)

// connKey is the key of a *clientConn in the context of its requests.
type connKey struct{}

// connContext registers a connection as soon as there is one, for a request over
// HTTP/2 may come to its handler when its connection is closed already.
//
// Nothing has to cancel the context of a connection that ends otherwise: net/http cancels
// its own, which is below it, and above it there is none that could be canceled.
func (s *stopLimit) connContext(ctx context.Context, conn net.Conn) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	client := &clientConn{Conn: conn, cancel: cancel}
	s.conns.Store(conn, client)
	return context.WithValue(ctx, connKey{}, client)
}

// connState forgets connections that are closed, or are tunnels now. Over HTTP/2 one is
// active before its first request, for a moment. net/http calls it for one state of a
// connection after the other.
func (s *stopLimit) connState(conn net.Conn, state http.ConnState) {
	found, ok := s.conns.Load(conn)
	if !ok {
		return
	}
	client := found.(*clientConn)
	if client.unused != nil {
		client.unused.Stop()
	}
	switch state {
	case http.StateActive:
		client.carries.CompareAndSwap(nothing, others)
	case http.StateIdle:
		if client.carries.CompareAndSwap(others, nothing) && s.done.Err() != nil {
			client.unused = time.AfterFunc(farewell, client.closeIfUnused)
		}
	case http.StateClosed, http.StateHijacked:
		s.conns.Delete(conn)
	}
}

// serverStops is called when a server begins to shut down. After a load that was under way
// when the process was told to stop, or a shutdown_delay, the time may be up by then.
func (s *stopLimit) serverStops() {
	s.noteExit()
	if s.done.Err() != nil {
		time.AfterFunc(farewell, s.closeClients)
	}
}

// interrupt ends everything of this module's.
func (s *stopLimit) interrupt() {
	s.finish(errDraining)
	tunnels.EndAll()
	s.closeClients()
}

func (s *stopLimit) closeClients() {
	s.conns.Range(func(_, client any) bool {
		if client := client.(*clientConn); client.carries.Load() != others {
			client.close()
		}
		return true
	})
	s.http3Servers.Range(func(key, _ any) bool {
		if server := key.(weak.Pointer[http3.Server]).Value(); server != nil {
			go server.Close() // waits until all its handlers have returned
		}
		return true
	})
}

// wait returns when all tunnels have ended and are logged, or the time is up.
func (s *stopLimit) wait() {
	s.begin()
	drained := make(chan struct{})
	go func() { tunnels.Wait(); close(drained) }()
	select {
	case <-drained:
		// After a grace_period Caddy no longer waits for streams to end.
		time.Sleep(lastFrames)
	case <-s.done.Done():
		select {
		case <-drained:
		case <-time.After(loggingMargin):
		}
	}
}

// server is what the handlers of one Caddy server share. It is registered with that
// once, since whatever is registered is called for each connection.
type server struct {
	mu      sync.Mutex                  // protects what follows
	streams map[*tunnel.Tunnel]struct{} // over HTTP/3
	window  time.Duration               // the longest of its handlers
	drained bool                        // those that come now are late
}

// servers finds them: *server by weak.Pointer[caddyhttp.Server]. Nothing in it leads
// to a configuration, so that old ones are not kept in memory.
var servers sync.Map

// serverOf returns what the handlers of the Caddy server that ctx belongs to share.
// window is one handler's.
func serverOf(ctx caddy.Context, window time.Duration) *server {
	s := &server{streams: make(map[*tunnel.Tunnel]struct{})}
	if of, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		key := weak.Make(of)
		found, known := servers.LoadOrStore(key, s)
		s = found.(*server)
		if !known {
			runtime.AddCleanup(of, func(key weak.Pointer[caddyhttp.Server]) { servers.Delete(key) }, key)
			of.RegisterOnShutdown(func() { s.onShutdown(ctx) })
			of.RegisterConnContext(stopping.connContext)
			of.RegisterConnState(stopping.connState)
		}
	}
	s.mu.Lock()
	s.window = max(s.window, window)
	s.mu.Unlock()
	return s
}

// onShutdown runs when the server begins to shut down. If the process stops, the
// server waits for its HTTP/2 and HTTP/3 streams, so the drain must not wait for it.
func (s *server) onShutdown(ctx caddy.Context) {
	// Caddy waits until each client has closed its connection, whatever it has asked for.
	if http3Server := http3ServerOf(ctx); http3Server != nil {
		stopping.trackHTTP3(http3Server)
	}
	stopping.serverStops()
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	if app, ok := app.(*caddyhttp.App); ok && app.GracePeriod > 0 {
		s.drainWithin(time.Duration(app.GracePeriod))
	}
}

// http3ServerOf returns the HTTP/3 server of the Caddy server that ctx belongs to, which
// keeps it to itself, or nil.
func http3ServerOf(ctx caddy.Context) *http3.Server {
	of, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	field := reflect.ValueOf(of).Elem().FieldByName("h3server")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*http3.Server]() {
		return nil
	}
	return (*http3.Server)(field.UnsafePointer())
}

// drainWithin drains the tunnels over HTTP/3 that are left, as late as can be: when
// the grace period is over, Caddy closes their connections.
func (s *server) drainWithin(grace time.Duration) {
	forClosing := min(lastWords, grace/2)
	window := min(s.window, grace-forClosing)
	time.AfterFunc(grace-forClosing-window, func() {
		s.mu.Lock()
		streams := make([]*tunnel.Tunnel, 0, len(s.streams))
		for t := range s.streams {
			streams = append(streams, t)
		}
		s.drained = true
		s.mu.Unlock()
		tunnel.Drain(context.Background(), streams, window)
	})
}

// lastWords is how long the peers of a tunnel have to answer its Close frames.
const lastWords = 5 * time.Second

// hold has t drained before the server's grace period is over, until t has ended.
func (s *server) hold(t *tunnel.Tunnel) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[t] = struct{}{}
	if s.drained {
		tunnel.Drain(context.Background(), []*tunnel.Tunnel{t}, 0)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams, t)
	}
}
