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
		{`{"upstreams": ["relay"]}`, `upstream "relay": it is neither a preset nor a URL; want production, staging`},
		{`{"upstreams": ["stageing"]}`, `upstream "stageing": it is neither a preset nor a URL; did you mean "staging"?`},
		{`{"upstreams": ["ws://relay.example"], "transport": {"protocol": "http", "tls": {}}}`,
			`upstream "ws://relay.example": its scheme means plain text, but the transport has TLS options; want "wss://relay.example"`},
		{`{"upstreams": ["http://relay.example:81/b"], "transport": {"protocol": "http", "tls": {"insecure_skip_verify": true}}}`,
			`want "wss://relay.example:81/b"`},
		{`{"upstreams": ["wss://relay.example"], "transport": {"protocol": "http", "tls": {}}}`, ""},
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

// TestLoadLog shows what is said of a configuration when it is loaded: where it
// relays to, and what can only be a mistake.
func TestLoadLog(t *testing.T) {
	t.Setenv("WATCHRTC_TEST_RELAY", "staging")
	const trap = "watchrtc_proxy /websocket {$WATCHRTC_TEST_UNSET}"
	for _, test := range []struct {
		name  string
		start func() *proxy
		want  map[string]any // in the line "relaying"
		warn  []string       // each is part of the only warning
	}{
		{"variable not set", func() *proxy { return start(t, site{body: trap}) },
			map[string]any{"mount": "/websocket", "upstream": "wss://watchrtc.testrtc.com", "default_upstream": true}, nil},
		{"production on purpose", func() *proxy { return start(t, site{body: "watchrtc_proxy /websocket/* production"}) },
			map[string]any{"mount": "/websocket", "upstream": "wss://watchrtc.testrtc.com", "default_upstream": false}, nil},
		{"no mount", func() *proxy { return start(t, site{body: "watchrtc_proxy * {env.WATCHRTC_TEST_RELAY}"}) },
			map[string]any{"mount": "/", "upstream": "wss://watchrtc-staging2.testrtc.com", "default_upstream": false}, nil},
		{"short idle_timeout", func() *proxy { return start(t, mountOn("staging", "idle_timeout 5ms")) },
			nil, []string{"idle_timeout is below 30s", "in JSON a duration without a unit is in nanoseconds", `"idle_timeout":"5ms"`}},
		{"idle_timeout without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "idle_timeout": 120}`) },
			nil, []string{"idle_timeout is below 30s", "nanoseconds", `"idle_timeout":"120ns"`}},
		{"handshake_timeout without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "handshake_timeout": 10}`) },
			nil, []string{"handshake_timeout is below 100ms", "nanoseconds", `"handshake_timeout":"10ns"`}},
		{"drain_window without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "drain_window": 20}`) },
			nil, []string{"drain_window is below 1ms", "nanoseconds", `"drain_window":"20ns"`}},
		{"small max_body_size", func() *proxy { return start(t, mountOn("staging", "max_body_size 16")) },
			nil, []string{"max_body_size is below 64KiB", "in JSON it is in bytes", `"max_body_size":16`}},
		{"the least that is sensible", func() *proxy {
			return start(t, mountOn("staging", "idle_timeout 30s\nhandshake_timeout 100ms\ndrain_window 1ms\nmax_body_size 64KiB"))
		}, nil, nil},
		{"no idle timeout", func() *proxy { return start(t, mountOn("staging", "idle_timeout 0\ndrain_window 0")) }, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := test.start()
			lines, _ := p.logs.matching(`"http.handlers.watchrtc_proxy"`, `"level":"info"`, `"relaying"`)
			if len(lines) != 1 {
				t.Fatalf("lines %q, want one", lines)
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(lines[0]), &fields); err != nil {
				t.Fatal(err)
			}
			for name, want := range test.want {
				if fields[name] != want {
					t.Errorf("%s is %v, want %v", name, fields[name], want)
				}
			}
			warnings, _ := p.logs.matching(`"http.handlers.watchrtc_proxy"`, `"level":"warn"`)
			if len(warnings) != min(len(test.warn), 1) || len(warnings) == 1 && !containsAll(warnings[0], test.warn) {
				t.Errorf("warnings %q, want %q", warnings, test.warn)
			}
		})
	}
}
