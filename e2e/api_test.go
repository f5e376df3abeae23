package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

const (
	asJSON  = "application/json"
	handler = "/config/apps/http/servers/edge/routes/0/handle/0"
)

// TestConfigAPI configures a Caddy that was started without any configuration, and
// then gives it another upstream.
func TestConfigAPI(t *testing.T) {
	s := &setup{ca: pki.New(t, "e2e"), addr: wstest.FreeAddr(t)}
	s.leaf = s.ca.Issue(t, "proxy.test", "127.0.0.1")
	first, second := relay.Start(t, s.ca, relay.Config{}), relay.Start(t, s.ca, relay.Config{})
	s.relay, s.proxy = first, caddy.Start(t, caddy.Config{})
	s.proxy.Do(t, http.MethodPost, "/load", asJSON, s.json(t))

	c := newClient(t, s.ca, stranger)
	ws := c.dial(t, s.url("wss"))
	conn, err := first.WaitConn(soon(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	checkChainOf(t, conn.Request.Header, stranger)

	s.proxy.Do(t, http.MethodPatch, handler+"/upstreams", asJSON, fmt.Sprintf("[%q]", second.URL()))
	checkUpstreams(t, s.proxy.Do(t, http.MethodGet, handler+"/upstreams", "", ""), second.URL())

	// The first is in no configuration any more.
	if _, _, err := ws.Read(soon(t)); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the old WebSocket ended with %v, want close code 1001", err)
	}
	c.dial(t, s.url("wss"))
	if _, err := second.WaitConn(soon(t), 1); err != nil {
		t.Error(err)
	}
	if status := c.post(t, s.url("https")+"/trace"); status != http.StatusOK {
		t.Errorf("POST: status %d", status)
	}
	if n := len(second.Requests()); n != 2 {
		t.Errorf("the second relay saw %d requests, want 2", n)
	}
}

// json is the configuration as JSON.
func (s *setup) json(t *testing.T) string {
	t.Helper()
	type object = map[string]any
	config, err := json.Marshal(object{
		"admin": object{"listen": s.proxy.Admin},
		"apps": object{
			"http": object{"servers": object{"edge": object{
				"listen": []string{s.addr},
				"routes": []object{{"handle": []object{{
					"handler":      "watchrtc_proxy",
					"path_prefix":  mount,
					"upstreams":    []string{s.relay.URL()},
					"drain_window": "1s",
					"transport": object{
						"protocol": "http",
						"tls":      object{"ca": object{"provider": "file", "pem_files": []string{s.ca.File}}},
					},
				}}}},
				"tls_connection_policies": []object{{}},
			}}},
			"tls": object{"certificates": object{"load_files": []object{
				{"certificate": s.leaf.CertFile, "key": s.leaf.KeyFile},
			}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(config)
}

func checkUpstreams(t *testing.T, body string, want ...string) {
	t.Helper()
	var got []string
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("upstreams %q, want %q", got, want)
	}
}

func checkChainOf(t *testing.T, header http.Header, want string) {
	t.Helper()
	if got := header.Get("X-Forwarded-For"); got != want {
		t.Errorf("X-Forwarded-For %q, want %q", got, want)
	}
}
