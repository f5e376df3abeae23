package watchrtcproxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/goleak"
)

// The certificate of every proxy and relay of these tests, as TestMain made it.
var (
	certFile, keyFile string
	certificate       tls.Certificate
	roots             = x509.NewCertPool()
)

// scratch is where Caddy keeps its locks and the like.
var scratch string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "watchrtc")
	if err != nil {
		log.Fatal(err)
	}
	scratch = dir
	// The relays of these tests are on loopback, whatever their names.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		os.Unsetenv(name)
		os.Unsetenv(strings.ToLower(name))
	}
	if err := makeCertificate(dir); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	if err := leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// lockKeeper is a goroutine of Caddy's that notices only now and then that its lock is
// gone.
var lockKeeper = goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")

// leaks reports goroutines that are left when no Caddy runs.
func leaks() error {
	if err := caddy.Stop(); err != nil {
		return err
	}
	return goleak.Find(lockKeeper)
}

func makeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "watchrtc_proxy test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"localhost", "relay.example"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	roots.AppendCertsFromPEM(certPEM)
	if certificate, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return err
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(certFile, certPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(keyFile, keyPEM, 0o600)
}

// TestModule shows that the module is where configurations look for it.
func TestModule(t *testing.T) {
	info, err := caddy.GetModule("http.handlers.watchrtc_proxy")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := info.New().(*Handler); !ok {
		t.Errorf("New makes a %T", info.New())
	}
}

// TestValidate gives JSON configurations that the Caddyfile cannot express, or
// refuses earlier.
func TestValidate(t *testing.T) {
	for _, test := range []struct {
		handler, want string // want is part of the error; none if empty
	}{
		{`{}`, ""},
		{`{"path_prefix": "/websocket", "upstreams": ["staging"]}`, ""},
		{`{"path_prefix": "websocket"}`, `path_prefix "websocket": want a path such as /websocket`},
		{`{"path_prefix": "/websocket/"}`, `path_prefix "/websocket/": want`},
		{`{"path_prefix": "/websocket*"}`, `path_prefix "/websocket*": want`},
		{`{"upstreams": ["relay"]}`, `upstream "relay": its scheme is not known; want production, staging`},
		{`{"upstreams": ["production", "staging"]}`, `upstream "staging": one upstream is supported`},
		{`{"upstreams": ["{env.WATCHRTC_TEST_UNSET}"]}`, `{env.WATCHRTC_TEST_UNSET}`},
		{`{"max_body_size": -1}`, `max_body_size -1: want`},
		{`{"handshake_timeout": -1}`, `handshake_timeout -1ns: want`},
		{`{"idle_timeout": -1}`, `idle_timeout -1ns: want`},
		{`{"drain_window": -1}`, `drain_window -1ns: want`},
		{`{"trusted_proxies": ["10.0.0.0/99"]}`, `trusted_proxies "10.0.0.0/99": want private_ranges`},
		{`{"transport": {"protocol": "fastcgi"}}`, `the only one accepted is http`},
		{`{"headers": {"request": {"replace": {"X": [{"search_regexp": "("}]}}}}`, `headers: `},
		{`{"no_such_option": 1}`, `no_such_option`},
	} {
		var config caddy.Config
		raw := fmt.Sprintf(`{"apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [%s]}]}}}}}`,
			strings.Replace(test.handler, `{`, `{"handler": "watchrtc_proxy", `, 1))
		raw = strings.Replace(raw, `", }`, `"}`, 1)
		if err := caddy.StrictUnmarshalJSON([]byte(raw), &config); err != nil {
			t.Fatal(err)
		}
		config.Admin = &caddy.AdminConfig{Disabled: true}
		config.StorageRaw = json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, scratch))
		newLogSink()
		config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {
			BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output": "watchrtc_test"}`)},
		}}}
		err := caddy.Validate(&config)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.handler, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %s", test.handler, err, test.want)
		}
	}
}
