// Package contestant starts the proxies that are compared, each from a
// configuration in config/, and reads what the operating system says they use.
package contestant

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"
)

//go:embed config
var configs embed.FS

// Contestant is one proxy in one configuration.
type Contestant struct {
	Name    string // on the command line and in files
	config  string // in config/
	command []string
	caddy   bool // built here, and answering on an admin endpoint
	install string
}

// Ours is the contestant that the others are measured against.
const Ours = "ours"

// All are the contestants, ours last. In a command, CONFIG, DIR and CADDY stand
// for what is known at run time.
var All = []Contestant{
	{
		Name: "nginx", config: "nginx.conf",
		command: []string{"nginx", "-e", "stderr", "-p", "DIR", "-c", "CONFIG"},
		install: "apt-get install nginx-light",
	},
	{
		Name: "haproxy", config: "haproxy.cfg",
		command: []string{"haproxy", "-db", "-f", "CONFIG"},
		install: "apt-get install haproxy",
	},
	{
		Name: "reverse_proxy", config: "reverse_proxy.caddyfile", caddy: true,
		command: []string{"CADDY", "run", "--config", "CONFIG", "--adapter", "caddyfile"},
	},
	{
		Name: Ours, config: "watchrtc_proxy.caddyfile", caddy: true,
		command: []string{"CADDY", "run", "--config", "CONFIG", "--adapter", "caddyfile"},
	},
}

// Select returns the contestants of a comma-separated list of names, or all.
func Select(names string) ([]Contestant, error) {
	if names == "" {
		return All, nil
	}
	var selected []Contestant
	for name := range strings.SplitSeq(names, ",") {
		c, err := find(name)
		if err != nil {
			return nil, err
		}
		selected = append(selected, c)
	}
	return selected, nil
}

func find(name string) (Contestant, error) {
	var known []string
	for _, c := range All {
		if c.Name == name {
			return c, nil
		}
		known = append(known, c.Name)
	}
	return Contestant{}, fmt.Errorf("no contestant is called %q; there are %s", name, strings.Join(known, ", "))
}

// Lookup says what to do about a contestant that isn't installed.
func (c Contestant) Lookup() error {
	if c.caddy {
		return nil
	}
	if _, err := exec.LookPath(c.command[0]); err != nil {
		return fmt.Errorf("%s is not installed: run `%s` (and stop the service it may start), or leave it out with -only", c.Name, c.install)
	}
	return nil
}

// Lab is what all contestants of a run share.
type Lab struct {
	Dir     string // for everything they write
	Caddy   string // the binary with our module
	Certs   *Certs
	Tunnels int // the most that any of them has to carry
}

// settings are what the configurations are filled with.
type settings struct {
	Dir            string
	CPUs           int
	Tunnels, Files int
	Listen         string
	Port           string
	Relay          string
	Admin          string
	Cert, Key      string
	CertAndKey     string
	Roots          string
}

// Start starts a contestant that forwards to relay, and returns once it
// answers.
func (l *Lab) Start(ctx context.Context, c Contestant, relay string) (*Process, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
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
		Listen: listen, Port: port, Relay: relay, Admin: admin,
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
	p, err := start(ctx, l.Dir, c.Name, listen, command)
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
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return start(ctx, l.Dir, "relay", addr, []string{self, "relay", addr, l.Certs.Relay.Cert, l.Certs.Relay.Key})
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

// freeAddress returns a loopback address that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
