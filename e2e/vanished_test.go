package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
)

const (
	// vanishLimit is how soon the proxy has to notice that a peer is gone.
	vanishLimit = 2 * time.Minute

	home     = "127.0.0.1"
	offline  = "127.0.0.2" // leaves the network in the middle of the test
	speaking = 200 * time.Millisecond
)

// TestVanished: when a client or a relay is gone without a word, the proxy closes the
// other leg within two minutes, whether something is on its way to the one that is gone
// or not.
func TestVanished(t *testing.T) {
	t.Parallel() // most of it is waiting for TCP
	if os.Getenv(namespaceVar) == "" {
		runInNamespace(t, vanishLimit+time.Minute)
		return
	}
	bringUpLoopback(t)
	s := newVanishSite(t)
	tests := []struct {
		name, client, relay string
		speaks              bool
		left, gone          *wstest.Conn
	}{
		{name: "silent client", client: offline, relay: home},
		{name: "client that is sent something", client: offline, relay: home, speaks: true},
		{name: "silent relay", client: home, relay: offline},
		{name: "relay that is sent something", client: home, relay: offline, speaks: true},
	}
	for i := range tests {
		client, relay := s.open(t, tests[i].client, tests[i].relay)
		tests[i].left, tests[i].gone = relay, client
		if tests[i].client == home {
			tests[i].left, tests[i].gone = client, relay
		}
	}
	client, relay := s.open(t, home, home)
	vanish(t, offline)
	vanished := time.Now()
	var waiting sync.WaitGroup
	for _, test := range tests {
		if test.speaks {
			go speak(test.left)
		}
		waiting.Go(func() {
			test.left.SetReadDeadline(vanished.Add(vanishLimit))
			_, err := test.left.Next()
			took := time.Since(vanished).Round(time.Second)
			t.Logf("%s: %v after %v", test.name, err, took)
			if err == nil || os.IsTimeout(err) || took < time.Minute {
				t.Errorf("%s: %v, want the end after a minute or two", test.name, err)
			}
		})
	}
	waiting.Wait()
	runtime.KeepAlive(tests) // what is gone would be closed
	for _, way := range [][2]*wstest.Conn{{client, relay}, {relay, client}} {
		if err := way[0].Send(wstest.Message("still here")); err != nil {
			t.Fatal(err)
		}
		if f, err := way[1].Next(); err != nil || string(f.Payload) != "still here" {
			t.Errorf("a bystander gets %s, %v", f, err)
		}
	}
}

// vanishSite is a proxy, and relays that leave each WebSocket to the test.
type vanishSite struct {
	addr   string
	tls    *tls.Config
	opened chan *wstest.Conn
}

func newVanishSite(t *testing.T) *vanishSite {
	t.Helper()
	ca := pki.New(t, "vanished")
	s := &vanishSite{addr: wstest.FreeAddr(t), tls: ca.ClientConfig("proxy.test"), opened: make(chan *wstest.Conn, 1)}
	site, relayCert := ca.Issue(t, "proxy.test"), ca.Issue(t, "relay.test")
	var mounts string
	for _, host := range []string{home, offline} {
		mounts += fmt.Sprintf(`
	watchrtc_proxy /%s wss://%s {
		transport http {
			tls_trust_pool file %s
			tls_server_name relay.test
		}
	}`, host, s.startRelay(t, host, relayCert.ServerConfig()), ca.File)
	}
	caddy.Start(t, caddy.Config{Sites: fmt.Sprintf(`
https://:%s {
	bind %s
	tls %s %s%s
}
`, port(s.addr), home, site.CertFile, site.KeyFile, mounts)})
	return s
}

func (s *vanishSite) startRelay(t *testing.T, host string, config *tls.Config) (addr string) {
	t.Helper()
	listener, err := tls.Listen("tcp", host+":0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c := wstest.NewConn(conn, false)
			if _, err := c.AcceptHandshake(); err != nil {
				t.Error(err)
			}
			s.opened <- c
		}
	}()
	return listener.Addr().String()
}

// open opens a WebSocket from one address to the relay at another.
func (s *vanishSite) open(t *testing.T, from, to string) (client, relay *wstest.Conn) {
	t.Helper()
	dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}, Config: s.tls}
	conn, err := dialer.DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	client = wstest.NewConn(conn, true)
	if _, err := client.Handshake("/" + to); err != nil {
		t.Fatal(err)
	}
	return client, <-s.opened
}

// speak goes on until the other end is known to be gone.
func speak(c *wstest.Conn) {
	for c.Send(wstest.Message("are you there?")) == nil {
		time.Sleep(speaking)
	}
}

// vanish takes an address off the network: what is sent to it is thrown away, and nothing
// comes from it.
func vanish(t *testing.T, addr string) {
	t.Helper()
	if out, err := exec.Command("ip", "route", "add", "blackhole", addr, "table", "local").CombinedOutput(); err != nil {
		t.Fatalf("ip route: %v\n%s", err, out)
	}
}
