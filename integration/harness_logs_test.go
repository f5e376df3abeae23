package integration_test

import (
	"encoding/json"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(logWriter{}) }

// current receives the logs of the Caddy that runs. Caddy opens the output once and
// keeps it.
var current atomic.Pointer[logs]

// logWriter is the log output watchrtc_integration.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.watchrtc_integration", New: func() caddy.Module { return new(logWriter) }}
}

func (logWriter) String() string                                { return "watchrtc_integration" }
func (logWriter) WriterKey() string                             { return "watchrtc_integration" }
func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (logWriter) OpenWriter() (io.WriteCloser, error)           { return logWriter{}, nil }
func (logWriter) Close() error                                  { return nil }
func (logWriter) Write(p []byte) (int, error)                   { return current.Load().Write(p) }

// logs keeps the log lines of one Caddy.
type logs struct {
	mu      sync.Mutex // protects what follows
	lines   []string
	changed chan struct{} // closed with the next line
}

func newLogs() *logs {
	l := &logs{changed: make(chan struct{})}
	current.Store(l)
	return l
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

// matching returns the lines that hold all of words.
func (l *logs) matching(words ...string) (lines []string, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if containsAll(line, words) {
			lines = append(lines, line)
		}
	}
	return lines, l.changed
}

func containsAll(s string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(s, word) {
			return false
		}
	}
	return true
}

// wait waits for n lines that hold all of words.
func (l *logs) wait(t *testing.T, n int, words ...string) []string {
	t.Helper()
	late := time.After(patience)
	for {
		lines, changed := l.matching(words...)
		if len(lines) >= n {
			return lines
		}
		select {
		case <-changed:
		case <-late:
			all, _ := l.matching()
			t.Fatalf("%d lines with %q, want %d, in\n%s", len(lines), words, n, strings.Join(all, ""))
		}
	}
}

// warnings returns what the module has warned of, without what is about upstreams other
// than those that upstream is a part of: the log of relays' faults belongs to the process,
// and may sum up now what earlier tests did.
func (l *logs) warnings(upstream string) (warnings []string) {
	for _, level := range []string{`"level":"warn"`, `"level":"error"`} {
		lines, _ := l.matching(level, "watchrtc_proxy")
		for _, line := range lines {
			if strings.Contains(line, upstream) || !strings.Contains(line, `"upstream":`) {
				warnings = append(warnings, line)
			}
		}
	}
	return warnings
}

// entry is what these tests look at in a log line.
type entry struct {
	Level, Logger, Msg string
	Status             int
}

// await returns the first line that holds all of words.
func (l *logs) await(t *testing.T, words ...string) (e entry) {
	t.Helper()
	if err := json.Unmarshal([]byte(l.wait(t, 1, words...)[0]), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// closed waits for the end of a tunnel and returns its log line.
func (p *proxy) closed(t *testing.T) (fields map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.logs.wait(t, 1, `"tunnel closed"`)[0]), &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// forget lets go of the lines, for tests that go on for long.
func (l *logs) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
}

// check looks for what no log may hold, whatever a test does.
func (l *logs) check(t testing.TB) {
	t.Helper()
	for _, word := range []string{secret, "panic", "superfluous", "DATA RACE"} {
		if lines, _ := l.matching(word); len(lines) > 0 {
			t.Errorf("the log has %q:\n%s", word, strings.Join(lines, ""))
		}
	}
}
