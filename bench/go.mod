module github.com/caddy-watchrtc/watchrtc-proxy/bench

go 1.26.0

require golang.org/x/sys v0.48.0

require github.com/caddy-watchrtc/watchrtc-proxy v0.0.0-00010101000000-000000000000

replace github.com/caddy-watchrtc/watchrtc-proxy => ../
