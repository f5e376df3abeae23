package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TestServerNameOfTheRequest has a connection come when its request is over. The
// placeholders of tls_server_name may read what the handlers that come next write, the
// variables of a handle_errors for one, and Go ends a process that does both at once.
func TestServerNameOfTheRequest(t *testing.T) {
	for name, send := range map[string]func(*Relay, *http.Request) error{
		"WebSocket":      func(r *Relay, req *http.Request) error { _, _, err := r.Handshake(req); return err },
		"http.Transport": func(r *Relay, req *http.Request) error { _, err := r.RoundTrip(req); return err },
	} {
		t.Run(name, func(t *testing.T) {
			dialing, arrive := make(chan struct{}), make(chan struct{})
			near, far := net.Pipe()
			transport := &reverseproxy.HTTPTransport{Transport: &http.Transport{
				TLSClientConfig: &tls.Config{ServerName: "{sni}"},
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					close(dialing)
					<-arrive
					return near, nil
				},
			}}
			r := New(Target{TLS: true, Host: "192.0.2.1"}, transport, Options{})

			var over, late atomic.Bool
			repl := caddy.NewEmptyReplacer()
			repl.Map(func(string) (any, bool) {
				late.Store(late.Load() || over.Load())
				return "relay.example", true
			})
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), caddy.ReplacerCtxKey, repl))
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://192.0.2.1/", nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-dialing
				cancel()
			}()
			var failure *Error
			if err := send(r, req); !errors.As(err, &failure) || failure.Stage != StageCanceled {
				t.Fatal(err)
			}
			over.Store(true)
			close(arrive)
			far.Read(make([]byte, 1)) // until the connection is closed
			if late.Load() {
				t.Error("the request's placeholders are read when it is over")
			}
		})
	}
}

// TestSetsDeadlines: nobody else may set read deadlines where the transport does, or where
// a relay may ask for another handshake.
func TestSetsDeadlines(t *testing.T) {
	for name, test := range map[string]struct {
		transport reverseproxy.HTTPTransport
		config    *tls.Config
		want      bool
	}{
		"neither":       {},
		"never":         {config: new(tls.Config)},
		"read_timeout":  {transport: reverseproxy.HTTPTransport{ReadTimeout: 1}, want: true},
		"renegotiation": {config: &tls.Config{Renegotiation: tls.RenegotiateOnceAsClient}, want: true},
	} {
		test.transport.Transport = &http.Transport{TLSClientConfig: test.config}
		if got := New(Target{TLS: true, Host: "192.0.2.1"}, &test.transport, Options{}).SetsDeadlines; got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestForwardProxyConnectionIsLeftToOthers has the request end that has opened a connection
// to a forward proxy. What has come to TLS with the relay by then is in the pool, or others
// have it; it ends with the request otherwise.
func TestForwardProxyConnectionIsLeftToOthers(t *testing.T) {
	for name, test := range map[string]struct {
		secured bool
		failed  error
		stays   bool
	}{
		"TLS under way": {},
		"TLS failed":    {secured: true, failed: errors.New("no certificate")},
		"TLS done":      {secured: true, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			dial := untilReady(func(context.Context, string, string) (net.Conn, error) { return near, nil },
				func(string) bool { return false })
			own := new(connecting)
			request, end := context.WithCancel(t.Context())
			if _, err := dial(context.WithValue(owned(request), connectingKey{}, own), "tcp", "forward-proxy:1"); err != nil {
				t.Fatal(err)
			}
			if test.secured {
				own.secured(tls.ConnectionState{}, test.failed)
			}
			_, tied := unready.Load(near)
			end()
			if tied == test.stays {
				t.Errorf("it ends with the request: %v", tied)
			}
			if tied {
				far.Read(make([]byte, 1)) // returns when near is closed
			}
			near.Close()
		})
	}
}
