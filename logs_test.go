package watchrtcproxy

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(logWriter{}) }

// currentSink receives the logs of the Caddy that runs. Caddy opens the output
// once and keeps it.
var currentSink atomic.Pointer[logSink]

// logWriter is the log output watchrtc_test.
type logWriter struct{}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.watchrtc_test", New: func() caddy.Module { return new(logWriter) }}
}

func (logWriter) String() string                                { return "watchrtc_test" }
func (logWriter) WriterKey() string                             { return "watchrtc_test" }
func (logWriter) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (logWriter) OpenWriter() (io.WriteCloser, error)           { return logWriter{}, nil }
func (logWriter) Close() error                                  { return nil }
func (logWriter) Write(p []byte) (int, error)                   { return currentSink.Load().Write(p) }

// logSink keeps log lines.
type logSink struct {
	mu      sync.Mutex // protects what follows
	lines   []string
	changed chan struct{} // closed with the next line
}

func newLogSink() *logSink {
	s := &logSink{changed: make(chan struct{})}
	currentSink.Store(s)
	return s
}

func (s *logSink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, string(p))
	close(s.changed)
	s.changed = make(chan struct{})
	return len(p), nil
}

// matching returns the lines that contain all of words.
func (s *logSink) matching(words ...string) (lines []string, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines {
		if containsAll(line, words) {
			lines = append(lines, line)
		}
	}
	return lines, s.changed
}

func containsAll(s string, substrings []string) bool {
	for _, sub := range substrings {
		if !strings.Contains(s, sub) {
			return false
		}
	}
	return true
}

// wait waits for n lines that contain all of words.
func (s *logSink) wait(ctx context.Context, t *testing.T, n int, words ...string) []string {
	t.Helper()
	for {
		lines, changed := s.matching(words...)
		if len(lines) >= n {
			return lines
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%d lines with %q, want %d", len(lines), words, n)
		}
	}
}

// closed waits for the next end of a tunnel and returns its log line.
func (p *proxy) closed(t *testing.T) map[string]any {
	t.Helper()
	line := p.logs.wait(testContext(t), t, 1, `"tunnel closed"`)[0]
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}
