package devrelay_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

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
