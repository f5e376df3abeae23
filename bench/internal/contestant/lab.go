package contestant

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"text/template"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// Lab is what all contestants of a run share.
type Lab struct {
	Dir     string // for everything they write
	Caddy   string // the binary with our module
	Certs   *Certs
	Tunnels int // the most that any of them has to carry

	// PlainRelay has them reach the relay without TLS.
	PlainRelay bool
}

// NewLab prepares this process and dir for these contestants. What is missing is an
// error now, not halfway through a run. caddy is a binary built before, or empty.
func NewLab(ctx context.Context, dir, caddy string, contestants []Contestant, tunnels int) (*Lab, error) {
	// Debian keeps servers where ordinary users don't look for commands.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin"); err != nil {
		return nil, err
	}
	for _, c := range contestants {
		if err := c.Lookup(); err != nil {
			return nil, err
		}
	}
	if err := raiseFileLimit(2*tunnels + 1000); err != nil {
		return nil, err
	}
	// The sender sleeps in the kernel, so one more thread may run Go code. A garbage
	// collection here would take the contestants' cores.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	debug.SetGCPercent(800)
	caddy, err := buildCaddy(ctx, dir, caddy)
	if err != nil {
		return nil, err
	}
	certs, err := MakeCerts(dir)
	return &Lab{Dir: dir, Caddy: caddy, Certs: certs, Tunnels: tunnels}, err
}

// raiseFileLimit makes room for two sockets per tunnel, here and in the
// contestants, which inherit the limit.
func raiseFileLimit(need int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Max = max(limit.Max, uint64(need))
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("so many tunnels need %d open files, and the limit is lower: %w", need, err)
	}
	return nil
}

// buildCaddy builds the binary in which both reverse_proxy and ours run,
// unless there is one.
func buildCaddy(ctx context.Context, dir, built string) (string, error) {
	if built != "" {
		return filepath.Abs(built)
	}
	built = filepath.Join(dir, "caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", built, "./cmd/caddy")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building ../cmd/caddy (is this run in bench/?): %w\n%s", err, out)
	}
	return built, nil
}

// settings are what the configurations are filled with.
type settings struct {
	Dir            string
	CPUs           int
	Tunnels, Files int
	Listen         string
	Port           string
	Relay          string
	PlainRelay     bool
	Admin          string
	Cert, Key      string
	CertAndKey     string
	Roots          string
}

// Start starts a contestant that forwards to relay, and returns once it accepts
// connections.
func (l *Lab) Start(ctx context.Context, c Contestant, relay string) (*Process, error) {
	listen, err := wstest.FindFreeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := wstest.FindFreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	tunnels := l.Tunnels + 200 // some more than needed
	config, err := l.writeConfig(c, settings{
		Dir: l.Dir, CPUs: runtime.NumCPU(), Tunnels: tunnels, Files: 2*tunnels + 100,
		Listen: listen, Port: port, Relay: relay, PlainRelay: l.PlainRelay, Admin: admin,
		Cert: l.Certs.Proxy.Cert, Key: l.Certs.Proxy.Key, CertAndKey: l.Certs.Proxy.Both, Roots: l.Certs.Roots,
	})
	if err != nil {
		return nil, err
	}
	values := strings.NewReplacer("CONFIG", config, "DIR", l.Dir, "CADDY", l.Caddy)
	command := make([]string, len(c.command))
	for i, word := range c.command {
		command[i] = values.Replace(word)
	}
	p, err := start(ctx, l.Dir, c.Name, listen, c.env, command)
	if err != nil {
		return nil, err
	}
	if c.caddy {
		p.Admin = admin
	}
	return p, nil
}

// StartRelay starts a relay, which is this program itself.
func (l *Lab) StartRelay(ctx context.Context) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := wstest.FindFreeAddr()
	if err != nil {
		return nil, err
	}
	return start(ctx, l.Dir, "relay", addr, nil, []string{self, "relay", addr, l.Certs.Relay.Cert, l.Certs.Relay.Key})
}

func (l *Lab) writeConfig(c Contestant, s settings) (string, error) {
	t, err := template.ParseFS(configs, "config/"+c.config)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, s); err != nil {
		return "", err
	}
	file := filepath.Join(l.Dir, c.config)
	return file, os.WriteFile(file, b.Bytes(), 0o600)
}
