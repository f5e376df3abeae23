package integration_test

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// patience is how long a test waits for what must happen. Nothing depends on how long
// it takes.
const patience = wstest.Patience

// secret is the key that clients of these tests have. No log may hold it.
const secret = "5ecret-0f-the-client"

// site is a Caddyfile in pieces.
type site struct {
	global string // global options
	server string // in servers { }
	body   string // of the site, which serves every host name
	bind   string // of the site; loopback if empty
	log    string // format of the log; json if empty
	debug  bool   // the log holds debug lines, where Caddy has URLs and so keys
	plain  bool   // HTTP without TLS
	http1  bool   // HTTP/1.1 alone
	http3  bool   // besides HTTP/1.1 and HTTP/2
	self   string // a word in body that stands for the site's own URL; none if empty
}

// mount is a site with the handler at /websocket, so configured that it reaches relay.
// Options are lines of the directive.
func mount(relay string, options ...string) site {
	return site{body: directive("/websocket", relay, options...)}
}

// directive writes a watchrtc_proxy. Its tunnels end with the configuration, without
// delay, and it trusts the relays of these tests, unless options say otherwise.
func directive(matcher, relay string, options ...string) string {
	lines := strings.Join(options, "\n")
	if !strings.Contains(lines, "drain_window") {
		lines += "\ndrain_window 0"
	}
	if !strings.Contains(lines, "transport http") && !strings.HasPrefix(relay, "ws://") {
		lines += "\n" + transport("")
	}
	return fmt.Sprintf("watchrtc_proxy %s %s {\n%s\n}", matcher, relay, lines)
}

// transport writes a transport that trusts the relays of these tests.
func transport(options string) string {
	return "transport http {\ntls_trust_pool file " + rootsFile + "\n" + options + "\n}"
}

// handlerJSON writes the handler in JSON, so configured that it reaches relay. Options
// are members of the object.
func handlerJSON(relay string, options ...string) string {
	return fmt.Sprintf(`{"handler": "watchrtc_proxy", "upstreams": [%q], "drain_window": 0,
		"transport": {"protocol": "http", "tls": {"ca": {"provider": "file", "pem_files": [%q]}}}%s}`,
		relay, rootsFile, strings.Join(append([]string{""}, options...), ", "))
}

// over returns s with what clients of a protocol need.
func (s site) over(protocol string) site {
	s.http3 = protocol == http3x
	return s
}

func (s site) caddyfile(port int) string {
	scheme, certificate := "https", "tls "+proxyFiles.Cert+" "+proxyFiles.Key
	if s.plain {
		scheme, certificate = "http", ""
	}
	if s.self != "" {
		s.body = strings.ReplaceAll(s.body, s.self, fmt.Sprintf("wss://127.0.0.1:%d", port))
	}
	level := "INFO"
	if s.debug {
		level = "DEBUG"
	}
	protocols := "h1 h2"
	switch {
	case s.http1:
		protocols = "h1"
	case s.http3:
		protocols += " h3"
	}
	return fmt.Sprintf(`{
		admin off
		auto_https off
		persist_config off
		storage file_system %s
		default_bind %s
		grace_period 5s
		log default {
			output watchrtc_integration
			format %s
			level %s
		}
		servers {
			protocols %s
			%s
		}
		%s
	}
	%s://:%d {
		%s
		%s
	}`, scratch, cmp.Or(s.bind, "127.0.0.1"), cmp.Or(s.log, "json"), level, protocols, s.server, s.global, scheme, port, certificate, s.body)
}

// proxy is a Caddy with the module in it. Caddy is one per process, so there is one at
// a time.
type proxy struct {
	network, addr string
	port          int
	plain         bool
	logs          *logs
}

// start runs a site until the test ends.
func start(t testing.TB, s site) *proxy {
	t.Helper()
	p := startConfig(t, func(port int) []byte { return adapt(t, s.caddyfile(port)) })
	p.plain = s.plain
	return p
}

// startJSON runs a site with one route made of handlers, which are JSON objects
// separated by commas.
func startJSON(t *testing.T, handlers string) *proxy {
	t.Helper()
	return startConfig(t, func(port int) []byte { return routeJSON(t, port, handlers) })
}

// routeJSON returns the configuration that startJSON runs.
func routeJSON(t *testing.T, port int, handlers string) []byte {
	t.Helper()
	config := adapt(t, site{body: "respond replaced 500"}.caddyfile(port))
	before, rest, ok := bytes.Cut(config, []byte(`{"body":"replaced"`))
	if !ok {
		t.Fatalf("no handler in %s", config)
	}
	_, after, _ := bytes.Cut(rest, []byte("}"))
	return slices.Concat(before, []byte(handlers), after)
}

// startConfig runs a configuration on a port that is free.
func startConfig(t testing.TB, config func(port int) []byte) *proxy {
	t.Helper()
	if lastTest != t.Name() {
		awaitNoTunnels(t)
		lastTest = t.Name()
	}
	for range 10 {
		port := freePort(t)
		p := &proxy{network: "tcp", addr: fmt.Sprintf("127.0.0.1:%d", port), port: port, logs: newLogs()}
		err := caddy.Load(config(port), true)
		if err == nil {
			t.Cleanup(func() { p.stop(t) })
			return p
		}
		if !strings.Contains(err.Error(), "address already in use") {
			t.Fatal(err)
		}
	}
	t.Fatal("no port stays free")
	return nil
}

// lastTest is the test that has started a proxy last.
var lastTest string

// awaitNoTunnels waits for the tunnels of the last test, whose ends are closed: they log
// their end with whatever configuration runs then.
func awaitNoTunnels(t testing.TB) {
	t.Helper()
	awaitTrue(t, "end of the last test's tunnels", func() bool { return !inTunnel(".") })
}

// inTunnel reports whether a goroutine is inside a function of internal/tunnel.
func inTunnel(function string) bool { return inStacks("watchrtc-proxy/internal/tunnel"+function) > 0 }

// inStacks counts how often goroutines are inside a function, which is written as in a
// stack trace.
func inStacks(function string) int {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte(function))
}

// adapt returns the JSON of a Caddyfile.
func adapt(t testing.TB, text string) []byte {
	t.Helper()
	adapted, err := caddyfileJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return adapted
}

func caddyfileJSON(text string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, fmt.Errorf("%w in\n%s", err, text)
	}
	return adapted, nil
}

// load has Caddy run a site, in place of what it runs.
func load(s site, port int) error {
	adapted, err := caddyfileJSON(s.caddyfile(port))
	if err != nil {
		return err
	}
	return caddy.Load(adapted, true)
}

// reload replaces the running site on the same port.
func (p *proxy) reload(t *testing.T, s site) {
	t.Helper()
	if err := load(s, p.port); err != nil {
		t.Fatal(err)
	}
	p.awaitOneListener(t)
}

// awaitOneListener waits until the server of the old configuration no longer listens.
// What it has not accepted by then is reset (docs/reloads.md).
func (p *proxy) awaitOneListener(t *testing.T) {
	t.Helper()
	listener := regexp.MustCompile(fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]+ 0A `, p.port))
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-ticker.C {
		sockets, err := os.ReadFile("/proc/net/tcp")
		if err != nil || len(listener.FindAll(sockets, 2)) < 2 {
			return // or the system does not tell
		}
	}
	t.Fatal("the old configuration still listens")
}

// stop may be called early. It is called when the test ends.
func (p *proxy) stop(t testing.TB) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	p.logs.check(t)
}

// freePort returns the port of an address that is free.
func freePort(t testing.TB) int {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", wstest.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	return addr.Port
}

// url returns an address of the proxy. target begins with a slash.
func (p *proxy) url(target string) string {
	scheme := "https://"
	if p.plain {
		scheme = "http://"
	}
	return scheme + p.addr + target
}
