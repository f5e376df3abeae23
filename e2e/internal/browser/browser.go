// Package browser drives a headless Chromium.
package browser

import (
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// startGrace is how long Chromium may take to start on a busy machine.
const startGrace = 60 * time.Second

// flags keep Chromium from everything but the page: it looks nothing up, asks
// nobody for updates and needs no user.
var flags = []string{
	"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-default-browser-check",
	"--disable-background-networking", "--disable-component-update", "--disable-sync",
	"--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
	"--use-fake-device-for-media-stream", "--ignore-certificate-errors",
	"--host-resolver-rules=MAP *.test 127.0.0.1, MAP *.google.com ~NOTFOUND, MAP *.googleapis.com ~NOTFOUND",
	"--remote-debugging-port=0",
}

// NoQUIC is the flag for tests that are not about HTTP/3.
const NoQUIC = "--disable-quic"

// Browser is a running Chromium with a profile of its own.
type Browser struct {
	ctx context.Context
}

var devTools = regexp.MustCompile(`ws://[^ ]+`)

// Start runs Chromium until tb ends.
func Start(tb testing.TB, more ...string) *Browser {
	tb.Helper()
	args := append(append([]string{}, flags...), more...)
	args = append(args, "--user-data-dir="+filepath.Join(program.Dir(tb), "chromium.profile"), "about:blank")
	process := program.Start(tb, "chromium", exec.Command("chromium", args...))
	url := devTools.FindString(process.Await(tb, startGrace, "DevTools listening on ws://"))

	ctx, cancel := chromedp.NewRemoteAllocator(context.Background(), url, chromedp.NoModifyURL)
	tb.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	tb.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		tb.Fatal(err)
	}
	return &Browser{ctx: ctx}
}
