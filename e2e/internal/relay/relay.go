// Package relay runs the stand-in relay behind a TLS listener that a test can
// close and open again.
package relay

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// Config says how a relay listens.
type Config struct {
	Addr      string                          // default: a free port
	ClientCAs *x509.CertPool                  // if set, clients must have a certificate of these
	Wrap      func(http.Handler) http.Handler // put in front of the relay
}

// Server is a relay on 127.0.0.1.
type Server struct {
	*devrelay.Relay
	Addr string

	listener *httptest.Server
}

// Start runs a relay with a certificate of ca until tb ends.
func Start(tb testing.TB, ca *pki.CA, config Config) *Server {
	tb.Helper()
	if config.Addr == "" {
		config.Addr = "127.0.0.1:0"
	}
	relay := devrelay.New(devrelay.Config{MaxMessageSize: 16 << 20})
	listener := listen(tb, relay, ca, config)
	s := &Server{Relay: relay, Addr: listener.Listener.Addr().String(), listener: listener}
	tb.Cleanup(s.Stop)
	return s
}

// Stop ends every connection and has nobody listen any more. It may be called again.
func (s *Server) Stop() {
	_ = s.Relay.Close() // never fails
	s.listener.Close()
}

func listen(tb testing.TB, handler http.Handler, ca *pki.CA, config Config) *httptest.Server {
	if config.Wrap != nil {
		handler = config.Wrap(handler)
	}
	logged := program.NewLog(tb, "relay")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		logged.Printf("%s %s %s %s %v", r.RemoteAddr, r.Method, r.RequestURI, r.Proto, r.Header)
		handler.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(logged, "", log.Ltime)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{ca.Issue(tb, "relay.test", "127.0.0.1", "localhost").TLS},
		ClientCAs:    config.ClientCAs,
	}
	if config.ClientCAs != nil {
		server.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	server.Listener.Close()
	var err error
	if server.Listener, err = net.Listen("tcp", config.Addr); err != nil {
		tb.Fatal(err)
	}
	server.StartTLS()
	return server
}

// URL is the upstream to configure.
func (s *Server) URL() string { return "wss://" + s.Addr }
