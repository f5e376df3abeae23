// Package program runs the programs that take part in a test, each with a log of
// its own, and ends them by their ids.
package program

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// keepVar names the environment variable that keeps the logs of passed tests too.
const keepVar = "WATCHRTC_E2E_KEEP"

var (
	dirsMu sync.Mutex // protects dirs
	dirs   = make(map[string]bool)
)

// Dir returns the folder for what tb leaves behind. It is kept if tb fails.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := filepath.Abs(filepath.Join("artifacts", strings.ReplaceAll(tb.Name(), "/", "_")))
	if err != nil {
		tb.Fatal(err)
	}
	dirsMu.Lock()
	defer dirsMu.Unlock()
	if dirs[dir] {
		return dir
	}
	dirs[dir] = true
	if err := os.RemoveAll(dir); err != nil { // of an earlier run
		tb.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		dirsMu.Lock()
		defer dirsMu.Unlock()
		delete(dirs, dir)
		if !tb.Failed() && os.Getenv(keepVar) == "" {
			_ = os.RemoveAll(dir) // what stays is in no one's way
		}
	})
	return dir
}

// WriteFile writes a file that a program reads, and returns its path.
func WriteFile(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(Dir(tb), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
