package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"golang.org/x/sys/unix"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/clock"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/echoes"
)

const (
	// victims is how many WebSockets a fault befalls. As many are tried under it, and
	// once it is over.
	victims = 10

	// bystanderPatience is how long a bystander's message may take there and back: all
	// of this shares the machine.
	bystanderPatience = 2 * time.Second
)

// fault is a row of the test, and of the table in docs/reliability.md.
type fault struct {
	name, did, happens string // what the documentation says

	mount   string
	network bool // the victims come over the clients' network

	// inflict begins the fault, and returns what ends it.
	inflict func(t *testing.T, s *faultSite) (heal func())

	// under is what is done under the fault: handshakes, where it is nil. It returns
	// what clients of its own have seen.
	under func(t *testing.T, s *faultSite, crowd *echoes.Crowd) echoes.Summary

	by      string        // who ends the victims, as the metrics have it; "" where they live on
	late    bool          // they end once the fault is over
	refused int           // the status of handshakes under the fault, if they fail
	stage   string        // at which they fail, as the metrics have it
	unheard bool          // handshakes may fail without a response
	lingers time.Duration // how long handshakes may fail once it is over
}

var faults = append(networkFaults,
	fault{
		name: "relay killed", did: "SIGKILL under load, and started again",
		happens: "its WebSockets end (1006), new ones get 502",
		mount:   direct, inflict: killRelay, by: "relay", refused: 502, stage: "connect",
	},
	fault{
		name: "relay stopped", did: "SIGSTOP, then SIGCONT",
		happens: "its WebSockets wait and lose nothing, new ones get 504 after `handshake_timeout`",
		mount:   direct, inflict: stopRelay, refused: 504, stage: "timeout",
	},
	fault{
		name: "client stopped", did: "SIGSTOP while the relay sends all it can, then SIGCONT",
		happens: "the relay has to wait; the proxy's memory stays flat; nothing is lost",
		mount:   direct, inflict: nothing, under: stopReaders,
	},
	fault{
		name: "out of descriptors", did: "RLIMIT_NOFILE lowered to 3 more than are open",
		happens: "new ones wait to be accepted, or get 502; the relay counts as up",
		mount:   scarce, inflict: takeDescriptors, refused: 502, stage: "connect", unheard: true,
	},
	fault{
		name: "disk full", did: "no room where the log is",
		happens: "lines are missing, nothing else; the log goes on once there is room",
		mount:   steady, inflict: nothing, under: fillDisk,
	},
	fault{
		name: "clock", did: "3 hours ahead, half an hour back, and right again",
		happens: "nothing: no WebSocket ends, no duration is wrong",
		mount:   steady, inflict: nothing, under: jumpClock,
	},
)

// networkFaults are those of Toxiproxy, which is between client and proxy, or between
// proxy and relay.
var networkFaults = slices.Concat(
	networkFault("latency and jitter", "100 ms each way, 80 more or less", "latency", `{"latency":100,"jitter":80}`, slower, slower),
	networkFault("bandwidth", "64 KB/s each way", "bandwidth", `{"rate":64}`, slower, slower),
	networkFault("slicing", "pieces of 1 to 39 bytes, 20 µs apart", "slicer", `{"average_size":20,"size_variation":19,"delay":20}`, slower, slower),
	networkFault("resets", "closed at once, new connections reset", "reset_peer", `{"timeout":0}`,
		fault{happens: "they end (1006), new ones do not get through", by: "client", unheard: true},
		fault{happens: "they end (1006), new ones get 502", by: "relay", refused: 502, stage: "tls"}),
	networkFault("timeouts", "nothing passes, closed after 300 ms", "timeout", `{"timeout":300}`,
		fault{happens: "they end (1006), new ones do not get through", by: "client", unheard: true},
		fault{happens: "they end (1006), new ones get 502", by: "relay", refused: 502, stage: "tls"}),
	networkFault("cut", "closed after 20,000 bytes each way", "limit_data", `{"bytes":20000}`,
		fault{happens: "they end (1006), new ones too", by: "client"},
		fault{happens: "they end (1006), new ones too", by: "relay"}),
	networkFault("half-open", "nothing passes, nothing is closed", "timeout", `{"timeout":0}`,
		fault{happens: "new ones do not get through; those cut off end (1006) once the network is back", by: "client", late: true, unheard: true},
		fault{happens: "new ones get 504; those cut off end (1006) once the network is back", by: "relay", late: true, refused: 504, stage: "timeout"}),
)

var slower = fault{happens: "slower, nothing lost; new ones too"}

// networkFault is a fault of each leg. The attributes are Toxiproxy's.
func networkFault(name, did, kind, attributes string, client, relay fault) []fault {
	legs := []fault{client, relay}
	for i := range legs {
		f := &legs[i]
		f.name, f.did = name+", "+[]string{"client's leg", "relay's leg"}[i], did
		f.mount, f.network = []string{steady, toxic}[i], i == 0
		f.inflict = func(t *testing.T, s *faultSite) func() {
			network := s.back
			if f.network {
				network = s.front
			}
			return poison(t, network, kind, attributes)
		}
	}
	return legs
}

// poison has a network misbehave both ways.
func poison(t *testing.T, network *toxiproxy.Proxy, kind, attributes string) (heal func()) {
	t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		_, err := network.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
			`{"name":%q,"type":%q,"stream":%q,"attributes":%s}`, stream, kind, stream, attributes)))
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() { network.Toxics.ResetToxics(context.Background()) }
}

// TestFaults has one proxy live through each fault. Bystanders lose nothing and hardly
// wait; each failure is counted once, with its reason, as clients saw it; new WebSockets
// work once the fault is over; and then the proxy holds no more than before.
func TestFaults(t *testing.T) {
	s := newFaultSite(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { f.test(t, s) })
	}
	checkDocumented(t)
}

func (f *fault) test(t *testing.T, s *faultSite) {
	before, counted := s.rest(t), s.counts(t)
	s.bystanders.Mark()
	addr := s.addr
	if f.network {
		addr = s.front.Listen
	}
	crowd := s.crowd(f.mount, addr, 5*time.Millisecond)
	crowd.Open(victims)
	if saw := crowd.Summary(); saw.Opened != victims {
		t.Fatalf("before the fault: %+v", saw)
	}

	heal := sync.OnceFunc(f.inflict(t, s))
	defer heal()
	var others echoes.Summary
	if f.under != nil {
		others = f.under(t, s, crowd)
	} else {
		crowd.Open(victims)
	}
	if f.by != "" && !f.late {
		awaitEnds(t, crowd)
	}
	heal()
	if f.late {
		awaitEnds(t, crowd)
	}

	saw := crowd.Close().Add(others)
	again := s.crowd(f.mount, addr, 5*time.Millisecond)
	for deadline := time.Now().Add(f.lingers); ; {
		again.Open(victims - again.Summary().Opened)
		if again.Summary().Opened == victims || time.Now().After(deadline) {
			break
		}
	}
	after := again.Close()
	if after.Closed != victims {
		t.Errorf("once the fault is over: %+v", after)
	}
	saw = saw.Add(after)
	s.awaitRest(t, before)
	f.check(t, saw, s.counts(t).since(counted))
	s.checkBystanders(t)
}

func awaitEnds(t *testing.T, crowd *echoes.Crowd) {
	t.Helper()
	if err := crowd.AwaitEnds(soon(t)); err != nil {
		t.Error(err)
	}
}

// check compares what clients saw with what should have happened, and with the metrics.
func (f *fault) check(t *testing.T, saw echoes.Summary, counted counts) {
	t.Helper()
	t.Logf("%d opened, %d closed, %d broken, refused %v; %d messages, the slowest took %v", saw.Opened, saw.Closed,
		saw.Broken, saw.Refused, saw.Messages, saw.Worst.Round(time.Millisecond))
	if saw.Damaged > 0 {
		t.Errorf("%d damaged messages: %q", saw.Damaged, saw.Errors)
	}
	if f.by == "" && saw.Broken > 0 {
		t.Errorf("%d WebSockets ended: %q", saw.Broken, saw.Errors)
	}
	refused := 0
	for status, n := range saw.Refused {
		if status != 0 {
			refused += n
		}
		if status != f.refused && !(status == 0 && f.unheard) {
			t.Errorf("%d handshakes got status %d: %q", n, status, saw.Errors)
		}
	}
	if f.refused != 0 && refused == 0 {
		t.Errorf("no handshake got status %d: %+v", f.refused, saw)
	}
	for _, figure := range []struct {
		name   string
		labels []string
		want   int
	}{
		{"tunnels_opened_total", nil, saw.Opened},
		{"tunnels_closed_total", nil, saw.Opened},
		{"tunnels_closed_total", []string{`by="client"`, `code="1000"`}, saw.Closed},
		{"tunnels_closed_total", []string{fmt.Sprintf(`by=%q`, f.by), `code="1006"`}, saw.Broken},
		{"handshake_failures_total", nil, refused},
		{"handshake_failures_total", []string{fmt.Sprintf(`stage=%q`, f.stage)}, refused},
		{"rejected_total", nil, 0},
		{"handshakes_in_flight", nil, 0},
	} {
		if got := counted.sum(figure.name, figure.labels...); got != figure.want {
			t.Errorf("%s%q is %d more, want %d; all that counted: %v", figure.name, figure.labels, got, figure.want, counted.of(figure.name))
		}
	}
}

func nothing(*testing.T, *faultSite) func() { return func() {} }

func killRelay(t *testing.T, s *faultSite) (heal func()) {
	s.relay.Signal(syscall.SIGKILL)
	s.relay.Wait(patience)
	return s.startRelay
}

func stopRelay(t *testing.T, s *faultSite) (heal func()) {
	s.relay.Signal(syscall.SIGSTOP)
	return func() { s.relay.Signal(syscall.SIGCONT) }
}

// mostGrowth is by how much the proxy's memory may grow where clients do not read: some
// 64 KiB for each leg, and what its heap happens to do meanwhile.
const mostGrowth = 16 << 20

func stopReaders(t *testing.T, s *faultSite, _ *echoes.Crowd) echoes.Summary {
	readers := startReaders(t, "wss://"+s.addr+toxic, s.ca, victims/2)
	memory := s.memory(t)
	readers.Signal(syscall.SIGSTOP)
	carried := -1
	for now := s.toClients(t); now > carried; now = s.toClients(t) {
		carried = now
		time.Sleep(100 * time.Millisecond) // nobody says that nothing moves
	}
	if growth := s.memory(t) - memory; growth > mostGrowth {
		t.Errorf("while clients do not read, the proxy grows by %d MiB", growth>>20)
	}
	readers.Signal(syscall.SIGCONT)
	saw := endReaders(t, readers)
	if saw.Closed != victims/2 {
		t.Errorf("readers: %+v", saw)
	}
	return saw
}

// toClients is how many bytes readers have been sent.
func (s *faultSite) toClients(t *testing.T) int {
	return s.counts(t).sum("bytes_total", `direction="to_client"`, s.upstreams[toxic])
}

// takeDescriptors leaves three for what comes.
func takeDescriptors(t *testing.T, s *faultSite) (heal func()) {
	open := s.descriptors(t)
	limit, free := 0, 3
	for ; free > 0; limit++ {
		if !open[limit] {
			free--
		}
	}
	var before unix.Rlimit
	if err := unix.Prlimit(s.proxy.Pid(), unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	set := func(limit unix.Rlimit) {
		if err := unix.Prlimit(s.proxy.Pid(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Error(err)
		}
	}
	set(unix.Rlimit{Cur: uint64(limit), Max: before.Max})
	return func() {
		set(before)
		s.checkUp(t, scarce)
	}
}

// checkUp checks that the proxy does not blame the relay for what it lacks itself.
func (s *faultSite) checkUp(t *testing.T, mount string) {
	t.Helper()
	counted := s.counts(t)
	if counted.sum("handshake_failures_total", s.upstreams[mount]) == 0 || counted.sum("upstream_up", s.upstreams[mount]) != 1 {
		t.Errorf("%s counts as down: %s", s.upstreams[mount], s.get(t, "/watchrtc_proxy/status"))
	}
}

// fillDisk lets victims come and go while nothing can be logged, and one after that.
func fillDisk(t *testing.T, s *faultSite, crowd *echoes.Crowd) echoes.Summary {
	filler := filepath.Join(s.logDir, "filler")
	fill(t, filler)
	full := s.logSize(t)
	crowd.Open(victims)
	meanwhile := s.crowd(steady, s.addr, 0)
	meanwhile.Open(victims)
	saw := meanwhile.Close()
	if grown := s.logSize(t) - full; grown >= int64(os.Getpagesize()) { // the last page has room
		t.Errorf("the log grew by %d bytes on a disk that is full", grown)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	then := s.crowd(steady, s.addr, 0)
	then.Open(1)
	saw = saw.Add(then.Close())
	s.awaitLog(t, full)
	return saw
}

// fill writes a file until there is no room for another byte.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

func (s *faultSite) logSize(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(s.logFile)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// awaitLog waits until a tunnel's end is in the log behind from.
func (s *faultSite) awaitLog(t *testing.T, from int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		content, err := os.ReadFile(s.logFile)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content[from:], []byte(`"tunnel closed"`)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is logged though there is room again")
		}
	}
}

// jumpClock sets the proxy's clock ahead and back. Its relay's certificate is valid at
// each of these times.
func jumpClock(t *testing.T, s *faultSite, crowd *echoes.Crowd) (saw echoes.Summary) {
	of, err := clock.Of(s.proxy.Pid())
	if errors.Is(err, clock.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := of.Reset(); err != nil {
			t.Error(err)
		}
	}()
	for _, offset := range []time.Duration{3 * time.Hour, -30 * time.Minute} {
		if err := of.Set(offset); err != nil {
			t.Fatal(err)
		}
		if off := time.Until(s.date(t)) - offset; off.Abs() > time.Minute {
			t.Errorf("the proxy's clock is %v off %v", off, offset)
		}
		meanwhile := s.crowd(steady, s.addr, 0)
		meanwhile.Open(victims)
		saw = saw.Add(meanwhile.Close())
		crowd.Open(victims)
		s.checkDurations(t)
	}
	return saw
}

// checkDurations checks that the clock is in none of them.
func (s *faultSite) checkDurations(t *testing.T) {
	t.Helper()
	const most = 600 // seconds; this test takes less
	for series, value := range s.counts(t) {
		if strings.Contains(series, "_seconds_sum{") && (value < 0 || value > most*1000) {
			t.Errorf("%s is %v", series, value)
		}
	}
	var list struct {
		Tunnels []struct {
			Idle float64 `json:"idle_seconds"`
		}
	}
	if err := json.Unmarshal(s.get(t, "/watchrtc_proxy/tunnels"), &list); err != nil {
		t.Fatal(err)
	}
	for _, tunnel := range list.Tunnels {
		if tunnel.Idle < 0 || tunnel.Idle > most {
			t.Errorf("a tunnel is idle for %v s", tunnel.Idle)
		}
	}
}

// checkBystanders checks that none of them has noticed anything.
func (s *faultSite) checkBystanders(t *testing.T) {
	t.Helper()
	saw := s.bystanders.Summary()
	t.Logf("bystanders: the slowest message took %v", saw.Worst.Round(time.Millisecond))
	if saw.Damaged > 0 || saw.Broken > 0 || saw.Worst > bystanderPatience {
		t.Errorf("bystanders: %+v", saw)
	}
}

// row is how the fault's row in docs/reliability.md goes on after who is at fault.
func (f *fault) row(test string) string {
	return fmt.Sprintf("| %s | %s | %s | | | | `%s` |", f.name, f.did, f.happens, test)
}

// checkDocumented checks that the documentation has these rows and no others.
func checkDocumented(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile("../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{outOfPorts.row("TestOutOfPorts")}
	for _, f := range faults {
		want = append(want, f.row("TestFaults"))
	}
	var got []string
	for _, line := range regexp.MustCompile("(?m)^\\| \\w+ (\\|.* `(?:TestFaults|TestOutOfPorts)` \\|)$").FindAllSubmatch(content, -1) {
		got = append(got, string(line[1]))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("docs/reliability.md should have the rows\n%s", strings.Join(want, "\n"))
	}
}
