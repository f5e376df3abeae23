package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/acme"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// acmeSite is the name that the proxy gets certificates for.
const acmeSite = "rtc.site.test"

// validity is how long a certificate lasts. Caddy renews it after half of that.
const validity = 16 * time.Second

// TestAutomaticHTTPS starts from an empty data folder. The proxy gets a certificate
// by itself, and new ones before they expire, while a WebSocket goes on.
func TestAutomaticHTTPS(t *testing.T) {
	t.Parallel() // most of it is waiting for certificates to age
	s := &setup{ca: pki.New(t, "e2e"), addr: wstest.FreeAddr(t)}
	s.relay = relay.Start(t, s.ca, relay.Config{})
	httpPort := port(wstest.FreeAddr(t))
	ca := acme.Start(t, buildDir, s.ca, acme.Config{HTTPPort: httpPort, TLSPort: port(s.addr), Validity: validity})
	s.proxy = caddy.Start(t, caddy.Config{
		Global: []string{
			"http_port " + httpPort,
			"https_port " + port(s.addr),
			"default_bind 127.0.0.1",
			"acme_ca " + ca.Directory,
			"acme_ca_root " + ca.CAFile,
			"renew_interval 1s",
			"renewal_window_ratio 0.5",
		},
		Sites: fmt.Sprintf(`
%s {
	watchrtc_proxy %s %s {
		transport http {
			tls_trust_pool file %s
		}
	}
}
`, acmeSite, mount, s.relay.URL(), s.ca.File),
	})
	s.proxy.Await(t, patience, "certificate obtained successfully", acmeSite)

	roots := ca.Roots(t)
	s.awaitServed(t, roots)
	c := newClientOf(t, roots, stranger)
	c.resolve(t, acmeSite)
	c.dial(t, "wss://"+acmeSite+":"+port(s.addr)+mount)
	ws := c.dial(t, "wss://"+acmeSite+":"+port(s.addr)+mount)
	conn, err := s.relay.WaitConn(soon(t), 2)
	if err != nil {
		t.Fatal(err)
	}

	s.dialNode(t, ca.RootPEM(t))

	seen := map[string]bool{s.serial(t, roots): true}
	for n := int64(1); len(seen) < 3; n++ {
		s.awaitCertificate(t, roots, seen)
		if err := ws.Write(soon(t), websocket.MessageText, fmt.Appendf(nil, "after renewal %d", n)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.WaitMessage(soon(t), n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.relay.WaitConn(expired(t), 4); err == nil {
		t.Error("the relay has another connection")
	}
	if closed := s.proxy.Log.Find("tunnel closed"); len(closed) != 1 { // that of Node.js
		t.Errorf("tunnels closed: %q", closed)
	}
	if status := c.post(t, "https://"+acmeSite+":"+port(s.addr)+mount+"/trace"); status != http.StatusOK {
		t.Errorf("POST: status %d", status)
	}
}

// dialNode opens a WebSocket with Node.js, whose TLS is OpenSSL's, trusting this root
// alone.
func (s *setup) dialNode(t *testing.T, root []byte) {
	t.Helper()
	url := "wss://" + acmeSite + ":" + port(s.addr) + mount
	node := program.Start(t, "node", exec.Command("node", "peers/ws-dial.mjs", url, program.WriteFile(t, "root.pem", string(root))))
	node.Await(t, patience, "greeting", "connectionId")
	if code := node.Wait(patience); code != 0 {
		t.Errorf("Node.js ended with %d", code)
	}
}

// serial returns the serial number of the certificate that the proxy serves now,
// verified.
func (s *setup) serial(t *testing.T, roots *x509.CertPool) string {
	t.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: roots, ServerName: acmeSite})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// awaitServed waits until a certificate is served: it is obtained a moment before.
func (s *setup) awaitServed(t *testing.T, roots *x509.CertPool) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var conn *tls.Conn
		if conn, err = tls.Dial("tcp", s.addr, &tls.Config{RootCAs: roots, ServerName: acmeSite}); err == nil {
			conn.Close()
			return
		}
	}
	t.Fatal(err)
}

// awaitCertificate waits for a certificate that is not among those seen, and adds
// it.
func (s *setup) awaitCertificate(t *testing.T, roots *x509.CertPool, seen map[string]bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * validity); time.Now().Before(deadline); {
		if serial := s.serial(t, roots); !seen[serial] {
			seen[serial] = true
			return
		}
		time.Sleep(200 * time.Millisecond) // each handshake looks anew
	}
	t.Fatal("the certificate was not renewed")
}
