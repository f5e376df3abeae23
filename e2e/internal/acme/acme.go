// Package acme runs Pebble, a certificate authority for tests by the people of
// Let's Encrypt, and the name server that it asks.
package acme

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

const startGrace = 30 * time.Second

// Config says how Pebble checks and issues.
type Config struct {
	HTTPPort, TLSPort string // where it looks for answers to challenges
	Validity          time.Duration
}

// Server is a running Pebble. Each name is at 127.0.0.1 for it.
type Server struct {
	Directory string // its URL
	CAFile    string // verifies Directory, and nothing that Pebble issues

	management string
	client     *http.Client
}

// Start builds Pebble in dir and runs it until tb ends.
func Start(tb testing.TB, dir string, ca *pki.CA, config Config) *Server {
	tb.Helper()
	dns := wstest.FreeAddr(tb)
	names := program.Start(tb, "names", exec.Command(build(tb, dir, "pebble-challtestsrv"),
		"-dnsserver", dns, "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-defaultIPv6", "", "-management", wstest.FreeAddr(tb)))
	names.Await(tb, startGrace, "Starting management server")

	listen, management := wstest.FreeAddr(tb), wstest.FreeAddr(tb)
	cmd := exec.Command(build(tb, dir, "pebble"), "-dnsserver", dns,
		"-config", configFile(tb, ca, config, listen, management))
	cmd.Env = []string{"PEBBLE_VA_NOSLEEP=1"}
	program.Start(tb, "pebble", cmd).Await(tb, startGrace, "ACME directory available")
	return &Server{
		Directory:  "https://" + listen + "/dir",
		CAFile:     ca.File,
		management: "https://" + management,
		client:     &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}}},
	}
}

func configFile(tb testing.TB, ca *pki.CA, config Config, listen, management string) string {
	leaf := ca.Issue(tb, "pebble.test", "127.0.0.1")
	content, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           listen,
		"managementListenAddress": management,
		"certificate":             leaf.CertFile,
		"privateKey":              leaf.KeyFile,
		"httpPort":                number(tb, config.HTTPPort),
		"tlsPort":                 number(tb, config.TLSPort),
		"retryAfter":              map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{
			"description":    "short",
			"validityPeriod": config.Validity / time.Second,
		}},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return program.WriteFile(tb, "pebble.json", string(content))
}

func number(tb testing.TB, port string) int {
	n, err := strconv.Atoi(port)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// build builds one of Pebble's programs, of the version that go.mod names.
func build(tb testing.TB, dir, name string) string {
	tb.Helper()
	file := filepath.Join(dir, name)
	out, err := exec.Command("go", "build", "-o", file, "github.com/letsencrypt/pebble/v2/cmd/"+name).CombinedOutput()
	if err != nil {
		tb.Fatalf("building %s: %v\n%s", name, err, out)
	}
	return file
}

// RootPEM returns the root of what Pebble issues; it is another at each start.
func (s *Server) RootPEM(tb testing.TB) []byte {
	tb.Helper()
	defer s.client.CloseIdleConnections()
	resp, err := s.client.Get(s.management + "/roots/0")
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	root, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		tb.Fatalf("%s, %v: %s", resp.Status, err, root)
	}
	return root
}

// Roots returns a pool of that root.
func (s *Server) Roots(tb testing.TB) *x509.CertPool {
	tb.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.RootPEM(tb)) {
		tb.Fatal("Pebble's root is no certificate")
	}
	return pool
}
