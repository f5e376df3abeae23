package devrelay_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
)

func TestCaddyfile(t *testing.T) {
	tests := []struct {
		input       string
		wantErr     string
		size, count int
	}{
		{input: "watchrtc_dev_relay"},
		{input: "watchrtc_dev_relay {\n max_message_size 16MiB\n max_connections 9\n}", size: 16 << 20, count: 9},
		{input: "watchrtc_dev_relay here", wantErr: "wrong argument count"},
		{input: "watchrtc_dev_relay {\n max_size 1\n}", wantErr: "unknown option 'max_size'"},
		{input: "watchrtc_dev_relay {\n max_message_size big\n}", wantErr: "bad size 'big'"},
		{input: "watchrtc_dev_relay {\n max_message_size\n}", wantErr: "wrong argument count"},
		{input: "watchrtc_dev_relay {\n max_connections 0\n}", wantErr: "bad count '0'"},
	}
	for _, tt := range tests {
		var h devrelay.Handler
		err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(tt.input))
		if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(strings.ToLower(err.Error()), tt.wantErr)) {
			t.Errorf("%q: error %v, want %q", tt.input, err, tt.wantErr)
		}
		if tt.wantErr == "" && (h.MaxMessageSize != int64(tt.size) || h.MaxConnections != tt.count) {
			t.Errorf("%q: %+v", tt.input, h)
		}
	}
}

// A reload provisions the new handler before it cleans up the old one.
func TestReload(t *testing.T) {
	before := provision(t, 9)
	served := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(served)
		if err := before.ServeHTTP(w, r, nil); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	ws, _, err := websocket.Dial(testContext(t), server.URL+"/?apiKey=k", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	readJSON(t, ws)

	after, changed := provision(t, 9), provision(t, 8)
	cleanup(t, before)
	if open := openConnections(t, changed); open != `"open":0` {
		t.Errorf("with other options: %s", open)
	}
	cleanup(t, changed)
	if open := openConnections(t, after); open != `"open":1` {
		t.Errorf("after the reload: %s", open)
	}
	send(t, ws, "still here")

	var closing sync.WaitGroup
	closing.Go(func() { cleanup(t, after) })
	if _, _, err := ws.Read(testContext(t)); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("when no handler is left: %v", err)
	}
	closing.Wait()
	<-served
}

func provision(t *testing.T, connections int) *devrelay.Handler {
	t.Helper()
	h := &devrelay.Handler{MaxConnections: connections}
	if err := h.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return h
}

func cleanup(t *testing.T, h *devrelay.Handler) {
	t.Helper()
	if err := h.Cleanup(); err != nil {
		t.Error(err)
	}
}

// openConnections is what the handler's page is told of them.
func openConnections(t *testing.T, h *devrelay.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/_relay/state", nil), nil); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(w.Body.String(), ",")
	open, _, _ := strings.Cut(rest, ",")
	return open
}
