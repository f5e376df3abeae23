package e2e

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// TestForwardProxy has the connections to the relay go through an HTTP CONNECT
// proxy, both that of a WebSocket and that of a POST.
func TestForwardProxy(t *testing.T) {
	for name, option := range map[string]string{
		"network_proxy":     "network_proxy url ",
		"forward_proxy_url": "forward_proxy_url ",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, relay.Config{}, caddy.Config{})
			forward, url := startForwardProxy(t)
			s.transport = option + url
			s.proxy.Load(t, s.site(s.relay.URL()))

			c := newClient(t, s.ca, stranger)
			c.dial(t, s.url("wss"))
			s.request(t, http.MethodGet, "/")
			if got := len(forward.Find("CONNECT", s.relay.Addr)); got != 1 {
				t.Errorf("%d CONNECTs for the WebSocket, want 1", got)
			}
			if status := c.post(t, s.url("https")+"/trace"); status != http.StatusOK {
				t.Errorf("POST: status %d", status)
			}
			if got := len(forward.Find("CONNECT", s.relay.Addr)); got != 2 {
				t.Errorf("%d CONNECTs for both, want 2", got)
			}
		})
	}
}

// startForwardProxy runs a proxy that tunnels whatever CONNECT asks for.
func startForwardProxy(t *testing.T) (logged *program.Log, url string) {
	t.Helper()
	logged = program.NewLog(t, "forward-proxy")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		logged.Printf("%s %s", r.Method, r.RequestURI)
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		relayed, err := net.Dial("tcp", r.RequestURI)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer relayed.Close()
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(relayed, rw) // either end ends both
			relayed.Close()
		}()
		_, _ = io.Copy(conn, relayed)
	}))
	t.Cleanup(server.Close)
	return logged, server.URL
}

// TestClientCertificate has a relay that demands one.
func TestClientCertificate(t *testing.T) {
	clients := pki.New(t, "clients")
	s := newSetup(t, relay.Config{ClientCAs: clients.Pool}, caddy.Config{})
	c := newClient(t, s.ca, stranger)
	if ws, err := c.tryDial(t, s.url("wss")); err == nil {
		t.Errorf("a WebSocket was opened without a certificate, subprotocol %q", ws.Subprotocol())
	}
	if status := c.post(t, s.url("https")+"/trace"); status != http.StatusBadGateway {
		t.Errorf("POST without a certificate: status %d, want 502", status)
	}

	own := clients.Issue(t, "proxy.client")
	s.transport = "tls_client_auth " + own.CertFile + " " + own.KeyFile
	s.proxy.Load(t, s.site(s.relay.URL()))
	c.dial(t, s.url("wss"))
	if status := c.post(t, s.url("https")+"/trace"); status != http.StatusOK {
		t.Errorf("POST: status %d", status)
	}
	for _, path := range []string{"/", "/trace"} {
		method := map[string]string{"/": http.MethodGet, "/trace": http.MethodPost}[path]
		certs := s.request(t, method, path).TLS.PeerCertificates
		if len(certs) == 0 || certs[0].Subject.CommonName != "proxy.client" {
			t.Errorf("%s: the relay sees certificates %v", path, certs)
		}
	}
}
