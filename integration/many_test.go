package integration_test

import (
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestManyTunnels opens, uses and closes 1,000 tunnels, and looks for what they
// leave behind: at both ends, among the goroutines, among the descriptors.
func TestManyTunnels(t *testing.T) {
	const count = 1000
	message := wire(true, wstest.Message("from the client"))
	reply := wire(false, wstest.Message("from the relay"))
	bye, byeBack := wire(true, wstest.CloseFrame(1000)), wire(false, wstest.CloseFrame(1000))

	relaysLeft := make(chan error, count) // how each connection ended at the relay
	addr := rawRelay(t, func(c *wstest.Conn) {
		if _, err := c.AcceptHandshakeWith(reply); err != nil {
			t.Error(err)
			relaysLeft <- err
			return
		}
		got := make([]byte, len(message)+len(bye))
		if _, err := io.ReadFull(c.R, got); err != nil || string(got) != message+bye {
			t.Errorf("the relay got %q (%v)", got, err)
		}
		c.WriteText(byeBack)
		c.CloseWrite()
		_, err := c.ReadToEnd()
		relaysLeft <- err
	}).Addr
	p := start(t, mount("wss://"+addr, ""))

	before, sockets := goleak.IgnoreCurrent(), countSockets(t)
	clients := make([]*conn, count)
	inParallel(count, func(i int) {
		c := p.dial(t)
		c.wantStatus(c.handshake("/websocket"), http.StatusSwitchingProtocols)
		clients[i] = c
	})
	// All are open now; each has its message waiting.
	inParallel(count, func(i int) {
		c := clients[i]
		c.write(message + bye)
		if got, err := io.ReadAll(c.R); err != nil || string(got) != reply+byeBack {
			t.Errorf("client %d got %q (%v)", i, got, err)
		}
		c.close()
	})
	for range count {
		if err := <-relaysLeft; err != nil {
			t.Errorf("the relay's connection ended with %v", err)
		}
	}
	lines := p.logs.wait(t, count, `"tunnel closed"`, `"close_code":1000`, `"closed_by":"client"`)
	if len(lines) != count {
		t.Errorf("%d tunnels closed, want %d", len(lines), count)
	}
	if err := goleak.Find(before, lockKeeper); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(patience); countSockets(t) > sockets; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d sockets are open, %d were before", countSockets(t), sockets)
		}
	}
}

// inParallel calls f for 0 to n-1, some at a time.
func inParallel(n int, f func(i int)) {
	var group sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }() // also when f gives the test up
			f(i)
		})
	}
	group.Wait()
}

// countSockets counts the sockets of this process, and so those of the proxy and of
// both ends. Where that cannot be told, the ends have to say it all.
func countSockets(t *testing.T) int {
	t.Helper()
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if runtime.GOOS != "linux" {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, entry := range entries {
		if target, err := os.Readlink(dir + entry.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}
