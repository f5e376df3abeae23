// Package caddy runs the Caddy binary under test.
package caddy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// binary is the file under test.
var binary = os.Getenv("WATCHRTC_E2E_CADDY")

// startGrace is how long Caddy may take to serve.
const startGrace = 30 * time.Second

// Config says what a Caddy is started with: no configuration at all where neither
// Sites nor Whole is set.
type Config struct {
	Name   string   // of the program; default: proxy
	Binary string   // default: the one under test
	Global []string // lines of the Caddyfile's global options
	Sites  string   // the rest of the Caddyfile
	Whole  string   // a Caddyfile with global options of its own, in place of both
	Env    []string
}

// Caddy is a running Caddy with an admin address and a data folder of its own.
type Caddy struct {
	*program.Process
	Admin string // host:port

	config Config
	home   string
}

// Start runs Caddy until tb ends, and returns once it serves.
func Start(tb testing.TB, config Config) *Caddy {
	tb.Helper()
	if config.Name == "" {
		config.Name = "proxy"
	}
	if config.Binary == "" {
		config.Binary = binary
	}
	c := &Caddy{Admin: wstest.FreeAddr(tb), config: config}
	c.home = filepath.Join(program.Dir(tb), config.Name+".home")
	c.run(tb)
	return c
}

// Restart starts Caddy again after Stop, with what it has stored.
func (c *Caddy) Restart(tb testing.TB) {
	tb.Helper()
	c.run(tb)
}

func (c *Caddy) run(tb testing.TB) {
	tb.Helper()
	args := []string{"run"}
	ready := "admin endpoint started"
	if content := c.initial(); content != "" {
		args = append(args, "--adapter", "caddyfile", "--config",
			program.WriteFile(tb, c.config.Name+".Caddyfile", content))
		ready = "serving initial configuration"
	}
	cmd := exec.Command(c.config.Binary, args...)
	cmd.Env = append([]string{
		"HOME=" + c.home, "XDG_DATA_HOME=" + c.home, "XDG_CONFIG_HOME=" + c.home,
		"CADDY_ADMIN=" + c.Admin,
	}, c.config.Env...)
	c.Process = program.Start(tb, c.config.Name, cmd)
	c.Await(tb, startGrace, ready)
}

func (c *Caddy) initial() string {
	if c.config.Sites == "" {
		return c.config.Whole
	}
	return c.Caddyfile(c.config.Sites)
}

// Caddyfile returns sites below this Caddy's global options.
func (c *Caddy) Caddyfile(sites string) string {
	global := append([]string{
		"admin " + c.Admin,
		"skip_install_trust",
		"auto_https disable_redirects",
		"log {\n\t\tlevel DEBUG\n\t}",
	}, c.config.Global...)
	return "{\n\t" + strings.Join(global, "\n\t") + "\n}\n" + sites
}

// Load replaces the configuration, as `caddy reload` does.
func (c *Caddy) Load(tb testing.TB, sites string) {
	tb.Helper()
	c.Do(tb, http.MethodPost, "/load", "text/caddyfile", c.Caddyfile(sites))
}

// Do sends a request to the admin API and returns the response's body. A change of the
// configuration is complete when it returns: nothing listens for the old one.
func (c *Caddy) Do(tb testing.TB, method, path, contentType, body string) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://"+c.Admin+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("%s %s: %s: %s", method, path, resp.Status, got)
	}
	if method != http.MethodGet {
		c.awaitReload(tb)
	}
	return string(bytes.TrimSpace(got))
}

// Build has Start run the binary that the environment names, or else the one of
// BuildDev.
func Build(dir string) error {
	if binary != "" {
		return nil
	}
	var err error
	binary, err = BuildDev(dir)
	return err
}

// Binary is the file that Start runs.
func Binary() string { return binary }

// BuildDev builds Caddy with the plugin and the stand-in relay, and returns its
// file.
func BuildDev(dir string) (string, error) {
	file := filepath.Join(dir, "caddy")
	cmd := exec.Command("go", "build", "-o", file, "./cmd/caddy")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return file, nil
}
