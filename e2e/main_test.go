// Package e2e holds tests that drive the real thing: Caddy with the plugin as
// users build it, the SDK in a browser, and other people's proxies, clients and
// certificate authorities around it. See README.md.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// buildDir takes what tests build.
var buildDir string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := play(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	flag.Set("test.parallel", "8") // what runs in parallel waits most of the time
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "watchrtc-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	if err := caddy.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if left := program.Leftovers(10 * time.Second); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "processes left behind:")
		for _, process := range left {
			fmt.Fprintln(os.Stderr, "\t"+process)
		}
		return 1
	}
	return code
}
