// Package reloadtest holds the tests of what happens to tunnels when Caddy is
// reloaded, stopped and restarted: the real binary, built from cmd/caddy, between
// real TLS clients and a real TLS relay that both check every frame.
//
// Each test starts its own process, whose memory and goroutines are therefore the
// proxy's alone, and reads them through Caddy's admin endpoint.
package reloadtest
