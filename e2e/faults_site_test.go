package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/echoes"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// The proxy's mounts, each with an upstream of its own.
const (
	steady = "/steady" // a relay that nothing befalls
	toxic  = "/toxic"  // the other relay, over a network with faults
	direct = "/direct" // the other relay
	scarce = "/scarce" // the steady relay, under another name
)

// handshakeTimeout is the proxy's.
const handshakeTimeout = 2 * time.Second

// site is one proxy through all faults, with the relays, the networks and the clients
// around it.
type faultSite struct {
	*testing.T         // of all faults: what starts in one goes on in the next
	addr, ca    string // the proxy's; the CA's file
	tls         *tls.Config
	proxy       *caddy.Caddy
	relay       *program.Process // the one that can be killed
	relayAddr   string
	relayCert   *pki.Leaf
	front, back *toxiproxy.Proxy // the clients' network, and the relay's
	upstreams   map[string]string
	logDir      string // a file system of its own
	logFile     string
	bystanders  *echoes.Crowd
}

// bystanderCount is how many WebSockets have to notice nothing.
const bystanderCount = 10

func newFaultSite(t *testing.T) *faultSite {
	t.Helper()
	ca := pki.New(t, "faults")
	s := &faultSite{T: t, addr: wstest.FreeAddr(t), ca: ca.File, tls: &tls.Config{RootCAs: ca.Pool}, relayAddr: wstest.FreeAddr(t)}
	s.relayCert = ca.Issue(t, "relay.test", "127.0.0.1")
	s.mountLogs(t)
	steadyAddr := wstest.FreeAddr(t)
	startRole(t, "steady", "relay", steadyAddr, s.relayCert.CertFile, s.relayCert.KeyFile).Await(t, patience, echoes.Listening)
	s.startRelay()
	s.front, s.back = startNetwork(t, "front", s.addr), startNetwork(t, "back", s.relayAddr)
	s.upstreams = map[string]string{
		steady: "wss://" + steadyAddr,
		toxic:  "wss://" + s.back.Listen,
		direct: "wss://" + s.relayAddr,
		// A base path makes the same relay another upstream.
		scarce: "wss://" + steadyAddr + "/scarce",
	}
	s.startProxy(t, ca)
	s.bystanders = s.crowd(steady, s.addr, 20*time.Millisecond)
	s.bystanders.Open(bystanderCount)
	if got := s.bystanders.Summary(); got.Opened != bystanderCount {
		t.Fatalf("bystanders: %+v", got)
	}
	return s
}

// mountLogs makes a file system for the proxy's log that is soon full.
func (s *faultSite) mountLogs(t *testing.T) {
	t.Helper()
	s.logDir = filepath.Join(program.Dir(t), "logs")
	s.logFile = filepath.Join(s.logDir, "proxy.log")
	if err := os.MkdirAll(s.logDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.logDir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mounting a tmpfs, which root can: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(s.logDir, unix.MNT_DETACH) })
}

func (s *faultSite) startRelay() {
	s.relay = startRole(s.T, "relay", "relay", s.relayAddr, s.relayCert.CertFile, s.relayCert.KeyFile)
	s.relay.Await(s.T, patience, echoes.Listening)
}

// startNetwork runs Toxiproxy in front of addr.
func startNetwork(t *testing.T, name, addr string) *toxiproxy.Proxy {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxics have loggers of their own
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	network := toxiproxy.NewProxy(server, name, wstest.FreeAddr(t), addr)
	if err := network.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Stop)
	return network
}

func (s *faultSite) startProxy(t *testing.T, ca *pki.CA) {
	t.Helper()
	leaf := ca.Issue(t, "proxy.test", "127.0.0.1")
	var mounts strings.Builder
	for mount, upstream := range s.upstreams {
		fmt.Fprintf(&mounts, `
	watchrtc_proxy %s %s {
		handshake_timeout %s
		transport http {
			tls_trust_pool file %s
			tls_server_name relay.test
		}
	}`, mount, upstream, handshakeTimeout, ca.File)
	}
	s.proxy = caddy.Start(t, caddy.Config{
		Global: []string{fmt.Sprintf("log tunnels {\n\t\tlevel DEBUG\n\t\tinclude http.handlers.watchrtc_proxy\n\t\toutput file %s\n\t}", s.logFile)},
		Sites: fmt.Sprintf(`
https://:%s {
	bind 127.0.0.1 127.0.0.2
	tls %s %s
	respond /date date%s
}
`, port(s.addr), leaf.CertFile, leaf.KeyFile, mounts.String()),
	})
}

// crowd returns clients of a mount that connect to addr.
func (s *faultSite) crowd(mount, addr string, pause time.Duration) *echoes.Crowd {
	crowd := echoes.New(echoes.Config{
		URL: "wss://" + s.addr + mount, Addr: addr, TLS: s.tls, Pause: pause,
		Patience: handshakeTimeout + time.Second, Stall: patience,
	})
	s.Cleanup(func() { crowd.Close() }) // where a test gives up
	return crowd
}

// get sends a request to the admin endpoint, on a connection of its own.
func (s *faultSite) get(t *testing.T, path string) []byte {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + s.proxy.Admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, response.Status, err)
	}
	return body
}

// counts are the metrics of this module: each series and its value.
type counts map[string]float64

func (s *faultSite) counts(t *testing.T) counts {
	t.Helper()
	c := make(counts)
	for line := range strings.Lines(string(s.get(t, "/metrics"))) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if name, ok := strings.CutPrefix(series, metric); ok {
			c[name], _ = strconv.ParseFloat(value, 64) // Prometheus's own
		}
	}
	return c
}

// sum adds up the series of a name that have all these labels.
func (c counts) sum(name string, labels ...string) (total int) {
	for series, value := range c {
		rest, ok := strings.CutPrefix(series, name+"{")
		for _, label := range labels {
			ok = ok && strings.Contains(rest, label)
		}
		if ok {
			total += int(value)
		}
	}
	return total
}

// of returns the series of a name that are not 0.
func (c counts) of(name string) counts {
	found := make(counts)
	for series, value := range c {
		if strings.HasPrefix(series, name+"{") && value != 0 {
			found[series] = value
		}
	}
	return found
}

// since returns what has been added to before.
func (c counts) since(before counts) counts {
	added := make(counts)
	for series, value := range c {
		added[series] = value - before[series]
	}
	return added
}

// holding is what a process holds, and what it may leave behind.
type holding struct{ goroutines, descriptors, tunnels int }

func (s *faultSite) holding(t *testing.T) holding {
	t.Helper()
	var h holding
	head, _, _ := bytes.Cut(s.get(t, "/debug/pprof/goroutine?debug=1"), []byte("\n"))
	if _, err := fmt.Sscanf(string(head), "goroutine profile: total %d", &h.goroutines); err != nil {
		t.Fatal(err)
	}
	h.tunnels = s.counts(t).sum("tunnels")
	h.descriptors = len(s.descriptors(t))
	return h
}

// descriptors returns the numbers of the proxy's open files.
func (s *faultSite) descriptors(t *testing.T) map[int]bool {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.proxy.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[int]bool)
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		open[fd] = true
	}
	return open
}

// rest returns what the proxy holds once that no longer changes.
func (s *faultSite) rest(t *testing.T) holding {
	t.Helper()
	last := s.holding(t)
	for range 100 {
		now := s.holding(t)
		if now == last {
			return now
		}
		last = now
	}
	return last
}

// awaitRest waits until the proxy holds no more than before.
func (s *faultSite) awaitRest(t *testing.T, before holding) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		now := s.holding(t)
		if now.goroutines <= before.goroutines && now.descriptors <= before.descriptors && now.tunnels == before.tunnels {
			return
		}
		select {
		case <-ctx.Done():
			program.WriteFile(t, "goroutines", string(s.get(t, "/debug/pprof/goroutine?debug=1")))
			t.Errorf("the proxy held %+v before the fault, and %v after it %+v", before, patience, now)
			return
		case <-time.After(20 * time.Millisecond): // it tells nobody
		}
	}
}

// memory is the proxy's resident memory in bytes.
func (s *faultSite) memory(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.proxy.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// date is the proxy's clock, as its responses tell it.
func (s *faultSite) date(t *testing.T) time.Time {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: s.tls}}
	response, err := client.Get("https://" + s.addr + "/date")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	date, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	return date
}
