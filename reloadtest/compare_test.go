//go:build linux

package reloadtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestCompare shows what other proxies do with 200 WebSockets when their
// configuration is reloaded and when they are stopped gracefully. It checks nothing:
// docs/reloads.md has what it prints.
//
//	COMPARE=1 go test ./reloadtest -run TestCompare -v
func TestCompare(t *testing.T) {
	if os.Getenv("COMPARE") == "" {
		t.Skip("COMPARE is not set")
	}
	for _, peer := range []struct {
		name  string
		start func(t *testing.T, c config) rival
	}{
		{"watchrtc_proxy, drain_window 4s", func(t *testing.T, c config) rival { return startCaddy(t, c, "") }},
		{"reverse_proxy", func(t *testing.T, c config) rival { return startCaddy(t, c, "stream_timeout 0") }},
		{"reverse_proxy, stream_close_delay 4s", func(t *testing.T, c config) rival { return startCaddy(t, c, "stream_close_delay 4s") }},
		{"nginx", func(t *testing.T, c config) rival { return startNginx(t, c, "") }},
		{"nginx, worker_shutdown_timeout 4s", func(t *testing.T, c config) rival { return startNginx(t, c, "worker_shutdown_timeout 4s;") }},
		{"HAProxy", func(t *testing.T, c config) rival { return startHAProxy(t, c, "") }},
		{"HAProxy, hard-stop-after 4s", func(t *testing.T, c config) rival { return startHAProxy(t, c, "hard-stop-after 4s") }},
	} {
		for _, what := range []string{"reload", "stop"} {
			t.Run(peer.name+"/"+what, func(t *testing.T) {
				dir, relay := writeCertificates(t), startRelay(t)
				r := peer.start(t, config{dir: dir, addr: reserve(t), upstream: relay.addr, window: 4 * time.Second})
				peers := open(t, r.addr, 200, "")
				sendAll(t, peers)
				begun := time.Now()
				if what == "reload" {
					r.reload()
				} else {
					r.stop()
				}
				t.Logf("%s: %s; processes now: %d", what, ends(peers, begun, 8*time.Second), r.processes())
			})
		}
	}
}

// ends says how the tunnels ended within the time.
func ends(peers []*peer, begun time.Time, within time.Duration) string {
	var first, last time.Duration
	closed, codes := 0, map[string]int{}
	tenths := map[time.Duration]int{}
	for _, p := range peers {
		e, ok := p.awaitEnd(time.Until(begun.Add(within)))
		if !ok {
			continue
		}
		at := e.at.Sub(begun)
		if closed == 0 || at < first {
			first = at
		}
		last = max(last, at)
		closed++
		tenths[at/(100*time.Millisecond)]++
		switch {
		case e.code != 0:
			codes[fmt.Sprintf("Close %d", e.code)]++
		default:
			codes["no Close frame"]++
		}
	}
	most := 0
	for _, n := range tenths {
		most = max(most, n)
	}
	return fmt.Sprintf("%d of %d closed within %v, from %v to %v, at most %d in a tenth of a second, %v",
		closed, len(peers), within, first.Round(time.Millisecond), last.Round(time.Millisecond), most, codes)
}

// rival is a proxy and the ways to do something to it.
type rival struct {
	addr         string
	reload, stop func()
	processes    func() int
}

func startCaddy(t *testing.T, c config, reverseProxy string) rival {
	text := func() string {
		if reverseProxy == "" {
			return c.String()
		}
		return fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
	skip_install_trust
	auto_https off
}
https://localhost:%s {
	bind 127.0.0.1
	tls %[2]s/cert.pem %[2]s/key.pem
	respond /version %[3]d
	reverse_proxy /websocket https://%[4]s {
		%[5]s
		transport http {
			tls_trust_pool file %[2]s/ca.pem
		}
	}
}
`, port(c.addr), c.dir, c.version, c.upstream, reverseProxy)
	}
	p := startProxy(t, c.dir, "a", c.addr, text())
	return rival{
		addr:   c.addr,
		reload: func() { c.version++; p.load(text()) },
		stop:   func() { p.signal(syscall.SIGTERM) },
		processes: func() int {
			select {
			case <-p.exited:
				return 0
			default:
				return 1
			}
		},
	}
}

func startNginx(t *testing.T, c config, option string) rival {
	path, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip(err)
	}
	ln := wstest.FreeAddr(t)
	write(t, filepath.Join(c.dir, "nginx.conf"), fmt.Sprintf(`daemon off;
worker_processes 1;
user root;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
%[2]s
events { worker_connections 4096; }
http {
	access_log off;
	server {
		listen %[3]s ssl;
		ssl_certificate %[1]s/cert.pem;
		ssl_certificate_key %[1]s/key.pem;
		location /websocket {
			proxy_pass https://%[4]s;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_read_timeout 1h;
		}
	}
}
`, c.dir, option, ln, c.upstream))
	p := startProcess(t, exec.Command(path, "-e", c.dir+"/early.log", "-c", filepath.Join(c.dir, "nginx.conf")))
	awaitListener(t, ln)
	master := p.cmd.Process
	return rival{
		addr:      ln,
		reload:    func() { _ = master.Signal(syscall.SIGHUP) },
		stop:      func() { _ = master.Signal(syscall.SIGQUIT) },
		processes: func() int { return family(master.Pid) },
	}
}

func startHAProxy(t *testing.T, c config, option string) rival {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip(err)
	}
	addr := wstest.FreeAddr(t)
	key, err1 := os.ReadFile(filepath.Join(c.dir, "key.pem"))
	cert, err2 := os.ReadFile(filepath.Join(c.dir, "cert.pem"))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	write(t, filepath.Join(c.dir, "both.pem"), string(cert)+string(key))
	write(t, filepath.Join(c.dir, "haproxy.cfg"), fmt.Sprintf(`global
	maxconn 4096
	%s
defaults
	mode http
	timeout connect 5s
	timeout client 1h
	timeout server 1h
frontend f
	bind %s ssl crt %[3]s/both.pem
	default_backend b
backend b
	server s %[4]s ssl verify none
`, option, addr, c.dir, c.upstream))
	p := startProcess(t, exec.Command(path, "-W", "-db", "-f", filepath.Join(c.dir, "haproxy.cfg")))
	awaitListener(t, addr)
	master := p.cmd.Process
	return rival{
		addr:      addr,
		reload:    func() { _ = master.Signal(syscall.SIGUSR2) },
		stop:      func() { _ = master.Signal(syscall.SIGUSR1) },
		processes: func() int { return family(master.Pid) },
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func awaitListener(t *testing.T, addr string) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-ticker.C {
		var p *peer
		if p, err = dialOnce(addr, ""); err == nil {
			p.conn.Close()
			return
		}
	}
	t.Fatalf("nobody listens at %s: %v", addr, err)
}

// family counts a process and its children.
func family(pid int) (n int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		id, _, _ := strings.Cut(string(text), " ")
		if len(fields) > 1 && fields[0] != "Z" && (id == strconv.Itoa(pid) || fields[1] == strconv.Itoa(pid)) {
			n++
		}
	}
	return n
}
