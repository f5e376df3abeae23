// Package contestant starts the proxies that are compared, each from a
// configuration in config/, and reads what the operating system says they use.
package contestant

import (
	"embed"
	"fmt"
	"os/exec"
	"strings"
)

//go:embed config
var configs embed.FS

// Contestant is one proxy in one configuration.
type Contestant struct {
	Name    string // on the command line and in files
	config  string // in config/
	command []string
	env     []string // beside PATH and HOME
	caddy   bool     // built here, with an admin endpoint
	install string

	// Scraped has its metrics read each second, as Prometheus would.
	Scraped bool
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

// OursGoroutines is ours with a goroutine per direction in place of event loops.
var OursGoroutines = Contestant{
	Name: "ours_goroutines", config: "watchrtc_proxy.caddyfile", caddy: true,
	command: []string{"CADDY", "run", "--config", "CONFIG", "--adapter", "caddyfile"},
	env:     []string{"WATCHRTC_PROXY_EVENT_LOOPS=off"},
}

// OursScraped is ours while its metrics are read every second.
var OursScraped = Contestant{
	Name: "ours_scraped", config: "watchrtc_proxy.caddyfile", caddy: true,
	command: []string{"CADDY", "run", "--config", "CONFIG", "--adapter", "caddyfile"},
	Scraped: true,
}

// Select returns the contestants of a comma-separated list of names.
func Select(names string) ([]Contestant, error) {
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
	for _, c := range append(All[:len(All):len(All)], OursGoroutines, OursScraped) {
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
