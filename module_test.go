package watchrtcproxy

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"go.uber.org/goleak"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// patience is how long a test waits for what must happen. Nothing depends on how long
// it takes.
const patience = wstest.Patience

// The certificate of every proxy of these tests.
var (
	authority  = wstest.NewAuthority("watchrtc_proxy test")
	proxyFiles wstest.Files
)

// scratch is where Caddy keeps its locks and the like, and this certificate.
var scratch string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if scratch, err = os.MkdirTemp("", "watchrtc"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if proxyFiles, err = authority.Issue("localhost").WriteFiles(scratch, "proxy"); err != nil {
		return 0, err
	}
	code = m.Run()
	if err := leaks(); code == 0 && err != nil {
		return 0, err
	}
	return code, nil
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

// testContext ends with the test, or when it has taken too long.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start runs Caddy with handlers, JSON objects separated by commas, on its one route until
// the test ends. It is for tests that look inside the package while it runs; those that
// need not do that are in integration.
func start(t *testing.T, handlers string) (addr string) {
	t.Helper()
	return startConfig(t, func(addr string) []byte {
		return fmt.Appendf(nil, `{
			"admin": {"disabled": true, "config": {"persist": false}},
			"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
			"storage": {"module": "file_system", "root": %q},
			"apps": {
				"tls": {"certificates": {"load_files": [{"certificate": %q, "key": %q}]}},
				"http": {"grace_period": "5s", "servers": {"test": {
					"listen": [%q], "automatic_https": {"disable": true}, "tls_connection_policies": [{}],
					"routes": [{"handle": [%s]}]
				}}}
			}
		}`, scratch, proxyFiles.Cert, proxyFiles.Key, addr, handlers)
	})
}

// startConfig runs Caddy on an address that is free, until the test ends.
func startConfig(t *testing.T, config func(addr string) []byte) (addr string) {
	t.Helper()
	for range 10 {
		addr = wstest.FreeAddr(t)
		err := caddy.Load(config(addr), true)
		if err == nil {
			t.Cleanup(func() {
				if err := caddy.Stop(); err != nil {
					t.Errorf("stopping: %v", err)
				}
				tunnels.Wait()
			})
			return addr
		}
		if !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
	}
	t.Fatal("no port stays free")
	return ""
}

// adapt returns the JSON of a Caddyfile.
func adapt(t *testing.T, text string) []byte {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return adapted
}

// handlerFor is the handler with a relay of its own, which echoes WebSockets and responds
// to all other requests with 200.
func handlerFor(t *testing.T) string {
	relay := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
		for {
			request, err := c.ReadRequest()
			if err != nil {
				return
			}
			if request.Header.Get("Upgrade") == "" {
				c.WriteResponse("200 OK", "")
				continue
			}
			c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
				"Sec-WebSocket-Accept: "+wstest.Accept(request.Header.Get("Sec-Websocket-Key")))
			io.Copy(c, c.R)
			return
		}
	})
	return fmt.Sprintf(`{"handler": "watchrtc_proxy", "upstreams": ["ws://%s"], "drain_window": 0}`, relay.Addr)
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
		{`{"fail_duration": -1}`, `fail_duration -1ns: want`},
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
		config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {
			BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output": "discard"}`)},
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
