package tunnel

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Heavy and quiet tunnels, whose peers are a process of their own, as they are in
// life: the scheduler of this one has nothing but the engine to run.
const peersVariable = "TUNNEL_TEST_PEERS"

type engineKind struct {
	name string
	wrap func(net.Conn) net.Conn
}

// engineKinds are pairs of legs that are alike but for the engine that carries them.
var engineKinds = []engineKind{
	{EventLoops, func(c net.Conn) net.Conn { return c }},
	{Goroutines, func(c net.Conn) net.Conn { return wrapped{c.(*net.TCPConn)} }},
}

// BenchmarkBulk has three tunnels of TLS carry as much as they can, and reports how
// much that was and how long the messages of a fourth took.
//
//	go test ./internal/tunnel -run '^$' -bench Bulk -benchtime 5s
func BenchmarkBulk(b *testing.B) {
	for _, heavy := range []int{1, 3, 8} {
		for _, kind := range engineKinds {
			b.Run(fmt.Sprintf("%d/%s", heavy, kind.name), func(b *testing.B) {
				result := runBulk(b, heavy, 1, 3*time.Second, kind.wrap)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(result.mbs, "MB/s")
				b.ReportMetric(ms(result.cpu), "cpu-ms/MB")
				b.ReportMetric(ms(result.quantile(0.5)), "p50-ms")
				b.ReportMetric(ms(result.quantile(0.99)), "p99-ms")
				b.ReportMetric(ms(result.quantile(1)), "max-ms")
			})
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

type bulkResult struct {
	mbs   float64
	cpu   time.Duration   // of this process, for each MB
	trips []time.Duration // sorted
}

func (r bulkResult) quantile(q float64) time.Duration {
	if len(r.trips) == 0 {
		return time.Hour
	}
	return r.trips[int(q*float64(len(r.trips)-1))]
}

// runBulk has heavy tunnels carry as much as they can to the relay for a while, and
// quiet ones a message and an acknowledgement in turn.
func runBulk(t testing.TB, heavy, quiet int, during time.Duration, wrap func(net.Conn) net.Conn) bulkResult {
	config := serverLeaf.ServerConfig()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peers := exec.Command(os.Args[0], "-test.run=^TestBulkPeers$", "-test.v")
	peers.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d %d", peersVariable,
		listener.Addr(), heavy, quiet, during.Milliseconds()))
	peers.Stderr = os.Stderr
	out, err := peers.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peers.Start(); err != nil {
		t.Fatal(err)
	}
	summaries := make(chan Summary, heavy+quiet)
	registry := NewRegistry(func(s Summary) { summaries <- s })
	lease := registry.Lease("wss://relay.test", 0, nil)
	for range heavy + quiet { // a tunnel's client connects first, then its relay
		client, relay := acceptTLS(t, listener, config, wrap), acceptTLS(t, listener, config, wrap)
		lease.Open(Info{}, ConnLeg(client, nil, false), ConnLeg(relay, nil, false), 0)
	}
	var result bulkResult
	before := cpuTime()
	for {
		var word string
		var n int64
		if _, err := fmt.Fscan(out, &word); err != nil {
			break
		}
		switch word {
		case "bytes":
			fmt.Fscan(out, &n)
			result.mbs = float64(n) / 1e6 / during.Seconds()
		case "trip":
			fmt.Fscan(out, &n)
			result.trips = append(result.trips, time.Duration(n))
		}
	}
	if err := peers.Wait(); err != nil {
		t.Error(err)
	}
	for range heavy + quiet {
		<-summaries
	}
	slices.Sort(result.trips)
	result.cpu = time.Duration(float64(cpuTime()-before) / (result.mbs * during.Seconds()))
	return result
}

func acceptTLS(t testing.TB, l net.Listener, config *tls.Config, wrap func(net.Conn) net.Conn) *tls.Conn {
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Server(wrap(conn), config)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBulkPeers is the process of the peers.
func TestBulkPeers(t *testing.T) {
	what, ok := os.LookupEnv(peersVariable)
	if !ok {
		t.Skip("runs as a process of another test")
	}
	var addr string
	var heavy, quiet, millis int
	if _, err := fmt.Sscan(what, &addr, &heavy, &quiet, &millis); err != nil {
		t.Fatal(err)
	}
	connect := func() *tls.Conn {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	clients, relays := make([]*tls.Conn, heavy+quiet), make([]*tls.Conn, heavy+quiet)
	for i := range clients {
		clients[i], relays[i] = connect(), connect()
	}
	var total atomic.Int64
	var all, readers sync.WaitGroup
	var mu sync.Mutex
	var trips []time.Duration
	end := time.Now().Add(time.Duration(millis) * time.Millisecond)
	for i := range heavy {
		all.Go(func() {
			p := make([]byte, 64<<10)
			for time.Now().Before(end) {
				if _, err := clients[i].Write(p); err != nil {
					t.Error(err)
					return
				}
			}
		})
		readers.Go(func() {
			p := make([]byte, 64<<10)
			for {
				n, err := relays[i].Read(p)
				if time.Now().Before(end) {
					total.Add(int64(n))
				}
				if err != nil {
					return
				}
			}
		})
	}
	for i := heavy; i < heavy+quiet; i++ {
		all.Go(func() {
			p := make([]byte, 200)
			for time.Now().Before(end) {
				begun := time.Now()
				clients[i].Write(p)
				if _, err := io.ReadFull(relays[i], p); err != nil {
					t.Error(err)
					return
				}
				relays[i].Write(p[:20])
				if _, err := io.ReadFull(clients[i], p[:20]); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				trips = append(trips, time.Since(begun))
				mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	all.Wait()
	for i := range clients {
		clients[i].Close()
		relays[i].Close()
	}
	readers.Wait()
	fmt.Println("bytes", total.Load())
	for _, trip := range trips {
		fmt.Println("trip", int64(trip))
	}
}
