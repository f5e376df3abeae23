// Package relaytest runs a stand-in relay over TLS for the length of a test.
package relaytest

import (
	"crypto/x509"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
)

// Server is a relay behind a TLS listener on loopback, with HTTP/1.1 and HTTP/2.
type Server struct {
	*devrelay.Relay

	// URL is https://127.0.0.1:port. The certificate is also valid for example.com.
	URL string

	// Roots verify the server's certificate, which is Certificate.
	Roots       *x509.CertPool
	Certificate *x509.Certificate
}

// Start runs a relay until the test ends.
func Start(tb testing.TB, config devrelay.Config) *Server {
	tb.Helper()
	relay := devrelay.New(config)
	listener := httptest.NewUnstartedServer(relay)
	listener.EnableHTTP2 = true
	// Tests break handshakes on purpose, and the log would tell of each.
	listener.Config.ErrorLog = log.New(io.Discard, "", 0)
	listener.StartTLS()
	tb.Cleanup(func() {
		_ = relay.Close() // never fails
		listener.Close()
	})

	server := &Server{
		Relay:       relay,
		URL:         listener.URL,
		Roots:       x509.NewCertPool(),
		Certificate: listener.Certificate(),
	}
	server.Roots.AddCert(server.Certificate)
	return server
}

// WebSocketURL is URL with the scheme wss.
func (s *Server) WebSocketURL() string {
	return strings.Replace(s.URL, "https", "wss", 1)
}
