package integration_test

import (
	"encoding/json"
	"testing"
)

// TestLoadLog shows what is said of a configuration when it is loaded: where it
// relays to, and what can only be a mistake.
func TestLoadLog(t *testing.T) {
	t.Setenv("WATCHRTC_TEST_RELAY", "staging")
	const trap = "watchrtc_proxy /websocket {$WATCHRTC_TEST_UNSET}"
	for _, test := range []struct {
		name  string
		start func() *proxy
		want  map[string]any // in the line "relaying"
		warn  []string       // each is part of the only warning
	}{
		{"variable not set", func() *proxy { return start(t, site{body: trap}) },
			map[string]any{"mount": "/websocket", "upstream": "wss://watchrtc.testrtc.com", "default_upstream": true}, nil},
		{"production on purpose", func() *proxy { return start(t, site{body: "watchrtc_proxy /websocket/* production"}) },
			map[string]any{"mount": "/websocket", "upstream": "wss://watchrtc.testrtc.com", "default_upstream": false}, nil},
		{"no mount", func() *proxy { return start(t, site{body: "watchrtc_proxy * {env.WATCHRTC_TEST_RELAY}"}) },
			map[string]any{"mount": "/", "upstream": "wss://watchrtc-staging2.testrtc.com", "default_upstream": false}, nil},
		{"short idle_timeout", func() *proxy { return start(t, mount("staging", "idle_timeout 5ms")) },
			nil, []string{"idle_timeout is below 30s", "in JSON a duration without a unit is in nanoseconds", `"idle_timeout":"5ms"`}},
		{"idle_timeout without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "idle_timeout": 120}`) },
			nil, []string{"idle_timeout is below 30s", "nanoseconds", `"idle_timeout":"120ns"`}},
		{"handshake_timeout without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "handshake_timeout": 10}`) },
			nil, []string{"handshake_timeout is below 100ms", "nanoseconds", `"handshake_timeout":"10ns"`}},
		{"drain_window without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "drain_window": 20}`) },
			nil, []string{"drain_window is below 1ms", "nanoseconds", `"drain_window":"20ns"`}},
		{"fail_duration without a unit", func() *proxy { return startJSON(t, `{"handler": "watchrtc_proxy", "fail_duration": 10}`) },
			nil, []string{"fail_duration is below 100ms", "nanoseconds", `"fail_duration":"10ns"`}},
		{"small max_body_size", func() *proxy { return start(t, mount("staging", "max_body_size 16")) },
			nil, []string{"max_body_size is below 64KiB", "in JSON it is in bytes", `"max_body_size":16`}},
		{"the least that is sensible", func() *proxy {
			return start(t, mount("staging", "idle_timeout 30s\nhandshake_timeout 100ms\ndrain_window 1ms\nfail_duration 100ms\nmax_body_size 64KiB"))
		}, nil, nil},
		{"no idle timeout", func() *proxy { return start(t, mount("staging", "idle_timeout 0\ndrain_window 0\nfail_duration 0")) }, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := test.start()
			lines, _ := p.logs.matching(`"http.handlers.watchrtc_proxy"`, `"level":"info"`, `"relaying"`)
			if len(lines) != 1 {
				t.Fatalf("lines %q, want one", lines)
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(lines[0]), &fields); err != nil {
				t.Fatal(err)
			}
			for name, want := range test.want {
				if fields[name] != want {
					t.Errorf("%s is %v, want %v", name, fields[name], want)
				}
			}
			warnings := p.logs.warnings("testrtc.com")
			if len(warnings) != min(len(test.warn), 1) || len(warnings) == 1 && !containsAll(warnings[0], test.warn) {
				t.Errorf("warnings %q, want %q", warnings, test.warn)
			}
		})
	}
}
