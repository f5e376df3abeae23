package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// forged is an address that a client claims and nobody has.
const forged = "203.0.113.66"

// trustFront trusts the proxies in front, which are at 127.0.0.1, and nobody
// else, though loopback addresses are trusted by default.
const trustFront = "trusted_proxies 127.0.0.1/32"

// checkChain has a client at stranger reach the proxy through url, by WebSocket and
// by POST, and checks the chain of addresses that the relay sees.
func (s *setup) checkChain(t *testing.T, addr, claimed, want string) {
	t.Helper()
	c := newClient(t, s.ca, stranger)
	if claimed != "" {
		c.header.Set("X-Forwarded-For", claimed)
	}
	c.dial(t, "wss://"+addr+mount)
	s.checkSeen(t, http.MethodGet, "/", want)
	if status := c.post(t, "https://"+addr+mount+"/trace"); status != http.StatusOK {
		t.Errorf("POST: status %d", status)
	}
	s.checkSeen(t, http.MethodPost, "/trace", want)
}

func (s *setup) checkSeen(t *testing.T, method, path, want string) {
	t.Helper()
	seen := s.request(t, method, path)
	if got := seen.Header["X-Forwarded-For"]; fmt.Sprint(got) != "["+want+"]" {
		t.Errorf("%s %s: X-Forwarded-For %q, want %q", method, path, got, want)
	}
}

// TestDirect has no proxy in front: what a client claims does not get through.
func TestDirect(t *testing.T) {
	s := newSetup(t, relay.Config{}, caddy.Config{}, trustFront)
	s.checkChain(t, s.addr, "", stranger)
	s.checkChain(t, s.addr, forged, stranger)
	s.checkChain(t, s.addr, forged+", 127.0.0.1", stranger)
}

// TestHAProxy has HAProxy pass connections on with the PROXY protocol, version 2.
func TestHAProxy(t *testing.T) {
	s := newSetup(t, relay.Config{}, caddy.Config{Global: []string{`servers {
		listener_wrappers {
			proxy_protocol {
				allow 127.0.0.1/32
			}
			tls
		}
	}`}}, trustFront)
	front := wstest.FreeAddr(t)
	config := program.WriteFile(t, "haproxy.cfg", fmt.Sprintf(`
global
	log stdout format raw local0
defaults
	mode tcp
	log global
	option tcplog
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen front
	bind %s
	server proxy %s send-proxy-v2 check
`, front, s.addr))
	haproxy := program.Start(t, "haproxy", exec.Command("haproxy", "-db", "-V", "-f", config))
	awaitListening(t, haproxy, front)

	s.checkChain(t, front, "", stranger)
	s.checkChain(t, front, forged, stranger)
}

// TestNginx has nginx end TLS and tell the client's address in X-Forwarded-For.
func TestNginx(t *testing.T) {
	s := newSetup(t, relay.Config{}, caddy.Config{}, trustFront)
	appending, replacing := wstest.FreeAddr(t), wstest.FreeAddr(t)
	program.WriteFile(t, "common.conf", `
proxy_set_header Host $host;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $connection_upgrade;
`)
	config := program.WriteFile(t, "nginx.conf", fmt.Sprintf(`
daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events {}
http {
	access_log /dev/stdout;
	client_body_temp_path tmp;
	proxy_temp_path tmp;
	fastcgi_temp_path tmp;
	uwsgi_temp_path tmp;
	scgi_temp_path tmp;
	ssl_certificate %[1]s;
	ssl_certificate_key %[2]s;
	proxy_http_version 1.1;
	map $http_upgrade $connection_upgrade {
		default upgrade;
		'' '';
	}
	server {
		listen %[3]s ssl;
		location / {
			include common.conf;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_pass https://%[5]s;
		}
	}
	server {
		listen %[4]s ssl;
		location / {
			include common.conf;
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_pass https://%[5]s;
		}
	}
}
`, s.leaf.CertFile, s.leaf.KeyFile, appending, replacing, s.addr))
	nginx := program.Start(t, "nginx", exec.Command("nginx", "-p", program.Dir(t), "-c", config, "-e", "stderr"))
	awaitListening(t, nginx, appending)

	s.checkChain(t, appending, "", stranger+", 127.0.0.1")
	s.checkChain(t, appending, "198.51.100.7", "198.51.100.7, "+stranger+", 127.0.0.1")
	s.checkChain(t, replacing, forged, stranger+", 127.0.0.1")
}
