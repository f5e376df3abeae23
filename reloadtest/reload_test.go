//go:build unix

package reloadtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestReloads carries traffic through 2,000 tunnels (a quarter without -full) while the configuration is
// changed 20 times, by each way there is. No tunnel may notice, and the process
// may not grow.
func TestReloads(t *testing.T) {
	tunnels := sized(2000)
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: 20 * time.Second}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())

	peers := open(t, cfg.addr, tunnels, "")
	sendAll(t, peers)
	before := p.usage()
	traffic := startTraffic(t, peers, 500*time.Microsecond)
	half := beginMessages(t, peers)

	for i, change := range changes {
		traffic.await(150)
		cfg.version++
		change.make(t, &cfg)
		change.by(p, cfg)
		if got := version(t, cfg.addr); got != fmt.Sprint(cfg.version) {
			t.Fatalf("reload %d (%s): version %s is served, want %d", i, change.what, got, cfg.version)
		}
		traffic.await(150)
		finishMessages(t, half)
		half = beginMessages(t, peers)
	}
	finishMessages(t, half)
	traffic.stop()
	sendAll(t, peers) // and all that was sent before has come back, in order

	for _, peer := range peers {
		if there, here := relay.leg(peer.id).received(), peer.received(); there != here {
			t.Errorf("tunnel %d: %d messages at the relay, %d at the client", peer.id, there, here)
		}
	}
	if n := p.count("tunnel closed"); n != 0 {
		t.Errorf("%d tunnels were closed", n)
	}
	t.Logf("%d messages through %d reloads", traffic.sent.Load(), len(changes))
	checkUsage(t, p, before)
}

// changes are what the reloads change, and how.
var changes = []struct {
	what string
	make func(testing.TB, *config)
	by   func(*proxy, config)
}{
	// A signal is heeded as long as nothing but the file has been loaded.
	{"other sites", func(_ testing.TB, c *config) { c.sites = otherSite(c, "one") }, bySignal},
	{"TLS versions", func(_ testing.TB, c *config) { c.tls = "protocols tls1.3" }, byCommand},
	{"the idle timeout", func(_ testing.TB, c *config) { c.options = "idle_timeout 5m" }, bySignal},
	{"certificate renewed", func(t testing.TB, c *config) { renewCertificate(t, c.dir) }, byCommand},
	{"the window", func(_ testing.TB, c *config) { c.window = 30 * time.Second }, byLoad},
	{"the window", func(_ testing.TB, c *config) { c.window = 25 * time.Second }, byPatch},
	{"headers", func(_ testing.TB, c *config) { c.options = "header_up X-Node a\nheader_down -Server" }, byLoad},
	{"the transport", func(_ testing.TB, c *config) { c.transport = "dial_timeout 4s\nread_buffer 8KiB" }, byLoad},
	{"curves", func(_ testing.TB, c *config) { c.tls = "curves x25519 secp256r1" }, byLoad},
	{"more sites", func(_ testing.TB, c *config) { c.sites += otherSite(c, "two") }, byCommand},
	{"the window", func(_ testing.TB, c *config) { c.window = 20 * time.Second }, byPatch},
	{"nothing but the response", func(testing.TB, *config) {}, byLoad},
	{"trusted proxies", func(_ testing.TB, c *config) { c.servers = "trusted_proxies static 192.0.2.0/24" }, byLoad},
	{"masking", func(_ testing.TB, c *config) { c.options = "mask_client_ip" }, byCommand},
	{"certificate renewed", func(t testing.TB, c *config) { renewCertificate(t, c.dir) }, byLoad},
	{"HTTP versions", func(_ testing.TB, c *config) { c.servers = "protocols h1" }, byLoad},
	{"a grace period", func(_ testing.TB, c *config) { c.global = "grace_period 1s" }, byLoad},
	{"fewer sites", func(_ testing.TB, c *config) { c.sites = "" }, byCommand},
	{"the window", func(_ testing.TB, c *config) { c.window = 10 * time.Second }, byPatch},
	// The last is like the first, so that the process can be compared.
	{"everything back", func(_ testing.TB, c *config) {
		*c = config{dir: c.dir, addr: c.addr, upstream: c.upstream, window: 20 * time.Second, version: c.version}
	}, byLoad},
}

func otherSite(c *config, name string) string {
	return fmt.Sprintf("https://%s.localhost:%s {\nbind 127.0.0.1\ntls %[3]s/cert.pem %[3]s/key.pem\nrespond %[1]s\n}\n",
		name, port(c.addr), c.dir)
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func byLoad(p *proxy, c config) {
	p.Helper()
	p.load(c.String())
}

func byCommand(p *proxy, c config) {
	p.Helper()
	p.writeConfig(c.String())
	p.run("reload", "--config", p.file(), "--address", "unix/"+p.sock())
}

func bySignal(p *proxy, c config) {
	p.Helper()
	const done = "successfully reloaded config from file"
	p.writeConfig(c.String())
	before := p.count(done)
	p.signal(syscall.SIGUSR1)
	p.awaitLogs(done, before+1)
}

// byPatch changes the window, and the response that tells which version runs.
func byPatch(p *proxy, c config) {
	p.Helper()
	var running any
	if err := json.Unmarshal(p.ask(http.MethodGet, "/config/", "", ""), &running); err != nil {
		p.Fatal(err)
	}
	for field, value := range map[string]string{
		"drain_window": fmt.Sprint(int64(c.window)),
		"body":         fmt.Sprintf("%q", fmt.Sprint(c.version)),
	} {
		path, ok := pathTo(running, field)
		if !ok {
			p.Fatalf("no %s in %v", field, running)
		}
		p.ask(http.MethodPatch, "/config"+path, "application/json", value)
	}
}

// pathTo finds the field in a configuration.
func pathTo(node any, field string) (string, bool) {
	switch node := node.(type) {
	case map[string]any:
		// The responses of other sites are not numbers.
		if value, ok := node[field]; ok && (field != "body" || isNumber(value)) {
			return "/" + field, true
		}
		for key, child := range node {
			if path, ok := pathTo(child, field); ok {
				return "/" + key + path, true
			}
		}
	case []any:
		for i, child := range node {
			if path, ok := pathTo(child, field); ok {
				return fmt.Sprintf("/%d%s", i, path), true
			}
		}
	}
	return "", false
}

func isNumber(value any) bool {
	s, _ := value.(string)
	_, err := strconv.Atoi(s)
	return err == nil
}

// version asks the proxy over a new connection which configuration runs.
func version(t testing.TB, addr string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   clientTLS(),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}}
	var response *http.Response
	var err error
	for range 20 { // see dial
		response, err = client.Get("https://localhost:" + port(addr) + "/version")
		if err == nil || !dropped(err) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// beginMessages has some tunnels begin a message, which is to be finished after
// the next reload.
func beginMessages(t testing.TB, peers []*peer) (rest []func() error) {
	t.Helper()
	for i := 0; i < len(peers); i += 50 {
		r, err := peers[i].sendHalf(4096)
		if err != nil {
			t.Fatal(err)
		}
		rest = append(rest, r)
	}
	return rest
}

func finishMessages(t testing.TB, rest []func() error) {
	t.Helper()
	for _, r := range rest {
		if err := r(); err != nil {
			t.Fatal(err)
		}
	}
}

// heapSlack is how much more the process may hold after 20 reloads: the runtime, the
// metrics and certmagic's cache keep some KB of each. An old configuration that is
// still held costs 45 KB and more, so half of the 20 would be seen here;
// TestRetained sees each.
const heapSlack = 512 << 10

// goroutineSlack is for what comes and goes: the admin endpoint's connection that
// asks, certmagic's maintenance.
const goroutineSlack = 5

// checkUsage checks that the process holds no more than before.
func checkUsage(t testing.TB, p *proxy, before usage) {
	t.Helper()
	after := settle(t, p)
	t.Logf("before %+v, after %+v", before, after)
	if after.Goroutines > before.Goroutines+goroutineSlack || after.Heap > before.Heap+heapSlack {
		t.Errorf("the process has grown\n%s", p.ask(http.MethodGet, "/debug/pprof/goroutine?debug=1", "", ""))
	}
}
