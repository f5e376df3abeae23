package tunnel

import (
	"crypto/tls"
	"net"
	"reflect"
	"slices"
	"syscall"

	"github.com/pires/go-proxyproto"
)

// tlsOf returns the outermost TLS of conn, around which there may be wrappers, or nil.
func tlsOf(conn net.Conn) *tls.Conn {
	for ; conn != nil; conn = wrappedBy(conn) {
		if c, ok := conn.(*tls.Conn); ok {
			return c
		}
	}
	return nil
}

// BelowTLS returns the connection that TLS is spoken over, or conn. To a relay behind a
// forward proxy there may be TLS within TLS: it is below both. Closing it closes conn
// without a word to a peer that does not listen, and without saying that all is well.
func BelowTLS(conn net.Conn) net.Conn {
	for c := tlsOf(conn); c != nil; c = tlsOf(conn) {
		conn = c.NetConn()
	}
	return conn
}

// innermost returns the connection at the bottom of conn, below TLS and what
// listener wrappers have put around it. It serves to tell the system how to end the
// connection, and to ask how far it is, never to carry bytes.
func innermost(conn net.Conn) net.Conn {
	for {
		below := wrappedBy(conn)
		if below == nil {
			return conn
		}
		conn = below
	}
}

func wrappedBy(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return nil
	case *tls.Conn:
		return c.NetConn()
	case *proxyproto.Conn:
		return c.Raw()
	}
	// First, because what embeds a *tls.Conn has its NetConn, too, which leads below TLS.
	if below := embeddedIn(reflect.ValueOf(conn)); below != nil {
		return below
	}
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return c.NetConn()
	}
	return nil
}

// embeddedIn returns the connection that a wrapper's type embeds, or nil. That is how a
// wrapper is usually made, and some, Caddy's http_redirect among them, have no
// other way to what they wrap. What an unexported type has embedded that is itself
// embedded is found too.
func embeddedIn(wrapper reflect.Value) net.Conn {
	v := reflect.Indirect(wrapper)
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		var below net.Conn
		switch f := v.Type().Field(i); {
		case f.Anonymous && f.IsExported():
			below, _ = v.Field(i).Interface().(net.Conn)
		case f.Anonymous:
			below = embeddedIn(v.Field(i))
		}
		if below != nil {
			return below
		}
	}
	return nil
}

// passesOn reports whether conn has done its work when a handshake is over: apart
// from bytes that it has read already, it only passes on.
func passesOn(conn net.Conn) bool {
	if _, ok := conn.(*proxyproto.Conn); ok {
		return true
	}
	t := reflect.TypeOf(conn)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "github.com/caddyserver/caddy/v2/modules/caddyhttp" &&
		slices.Contains(caddyWrappers, t.Elem().Name())
}

// caddyWrappers are types of Caddy's that are not exported, and whose work is done with
// the first bytes of a connection: http_redirect looks at five, and has a bufio.Reader
// from then on; a server without TLS and with one of h1 and h2c looks for HTTP/2's preface.
var caddyWrappers = []string{"httpRedirectConn", "http2Conn"}

func unsentOf(conn net.Conn) int {
	n := unknown
	withSocket(conn, func(fd int) { n = unsentIn(fd) })
	return n
}

// withSocket calls f with the descriptor of conn, if it has one.
func withSocket(conn net.Conn, f func(fd int)) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // closed, or f has been called
	}
}
