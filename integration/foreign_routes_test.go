package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestErrorRoutesOfAnotherSite: where only another site has error routes, which never see
// this one's errors, Caddy does not log a 502 with its URL, and so the client's key.
func TestErrorRoutesOfAnotherSite(t *testing.T) {
	dead := handlerJSON("wss://" + wstest.DeadAddr(t))
	const sites = `{"handler":"subroute","routes":[
		{"match":[{"host":["other.example"]}],"terminal":true,"handle":[
			{"handler":"subroute","routes":[],"errors":{"routes":[{"handle":[{"handler":"static_response","body":"sorry"}]}]}}]},
		{"match":[{"host":["proxy.example"]}],"terminal":true,"handle":[%s]}]}`
	p := startJSON(t, fmt.Sprintf(sites, dead))
	for _, kind := range kinds {
		c := p.dial(t)
		response := c.try(kind, "/websocket?apiKey="+secret)
		if response.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: status %d", kind, response.StatusCode)
		}
		c.close()
	}
}
