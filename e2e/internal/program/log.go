package program

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Log keeps the lines that a program says, in memory and in a file. Its methods may
// be called concurrently.
type Log struct {
	name string

	mu      sync.Mutex // protects what follows
	file    *os.File
	partial []byte
	lines   []string
	changed chan struct{} // closed at the next change
}

// NewLog returns the log of a program, kept in name.log.
func NewLog(tb testing.TB, name string) *Log {
	tb.Helper()
	path := filepath.Join(Dir(tb), name+".log")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	l := &Log{name: name, file: file, changed: make(chan struct{})}
	tb.Cleanup(l.close)
	return l
}

func (l *Log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close()
	l.file = nil
}

// Write takes part of the output.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		if _, err := l.file.Write(p); err != nil {
			return 0, err
		}
	}
	l.partial = append(l.partial, p...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			break
		}
		l.lines = append(l.lines, string(line))
		l.partial = rest
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

// Printf adds a line.
func (l *Log) Printf(format string, args ...any) {
	fmt.Fprintf(l, "%s %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// Lines returns what was said so far.
func (l *Log) Lines() []string {
	lines, _ := l.snapshot()
	return lines
}

func (l *Log) snapshot() ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines[:len(l.lines):len(l.lines)], l.changed
}

// Find returns the lines that hold each of words.
func (l *Log) Find(words ...string) []string {
	var found []string
	for _, line := range l.Lines() {
		if holds(line, words) {
			found = append(found, line)
		}
	}
	return found
}

// Await waits for a line that holds each of words, and returns the first.
func (l *Log) Await(ctx context.Context, words ...string) (string, error) {
	seen := 0
	for {
		lines, changed := l.snapshot()
		for ; seen < len(lines); seen++ {
			if holds(lines[seen], words) {
				return lines[seen], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("%s: no line with %q: %w", l.name, words, context.Cause(ctx))
		}
	}
}

func holds(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}
