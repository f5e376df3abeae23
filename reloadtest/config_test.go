//go:build unix

package reloadtest

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// config is a Caddyfile with one proxy, and what can be different about it. The relay
// shares a machine with all of its clients, so a connection to it may take its time.
type config struct {
	dir, addr string // of the certificates; to listen on
	upstream  string // host and port
	window    time.Duration

	bind    string // where to listen; 127.0.0.1 if empty
	version int    // what /version says
	global  string // more global options
	servers string // more server options
	tls     string // more TLS options
	site    string // more directives of the proxy's site
	transport,
	options string // more options of the directive and its transport
	sites string // more sites
}

func (c config) String() string {
	_, port, _ := strings.Cut(c.addr, ":")
	return fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
	skip_install_trust
	auto_https off
	%[1]s
	servers {
		%[10]s
	}
}

https://localhost:%[2]s {
	bind %[13]s
	tls %[3]s/cert.pem %[3]s/key.pem {
		%[4]s
	}
	respond /version %[5]d
	%[12]s
	watchrtc_proxy /websocket wss://%[6]s {
		drain_window %[7]s
		transport http {
			tls_trust_pool file %[3]s/ca.pem
			dial_timeout 1m
			%[11]s
		}
		%[8]s
	}
}

%[9]s
`, c.global, port, c.dir, c.tls, c.version, c.upstream, c.window, c.options, c.sites, c.servers, c.transport, c.site, cmp.Or(c.bind, "127.0.0.1"))
}
