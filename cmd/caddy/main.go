// Command caddy is Caddy with its standard modules, watchrtc_proxy and the
// stand-in relay, so that everything here runs with `go run ./cmd/caddy`.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-watchrtc/watchrtc-proxy"
	_ "github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	_ "github.com/caddy-watchrtc/watchrtc-proxy/top"
)

func main() {
	caddycmd.Main()
}
