// Command reliability attacks watchrtc_proxy and its peers: does a fast client
// starve others, does a hostile one fill the memory, is anything lost when a
// tunnel ends? See README.md one folder up.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "reliability:", err)
		os.Exit(1)
	}
}

// run is also where the processes begin that this program starts from its own binary.
func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 4 && args[0] == "relay": // how Lab.StartRelay calls it
		return relay.Serve(ctx, args[1], args[2], args[3])
	case len(args) == 4 && args[0] == "sender":
		return sendFast(ctx, args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "endpoint":
		return runVictim(args[1])
	}
	p, err := parsePlan(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// plan is what the command line asks for.
type plan struct {
	contestants []contestant.Contestant
	tests       []string
	duration    time.Duration
	soakFor     time.Duration
	seed        uint64
	json        string
	plot        string
	caddy       string
	short       bool
}

var allTests = []string{"fairness", "memory", "loss", "attacks", "soak"}

func parsePlan(args []string) (*plan, error) {
	p := &plan{}
	f := flag.NewFlagSet("reliability", flag.ContinueOnError)
	only := f.String("contestants", "", "separated by commas (default nginx,haproxy,reverse_proxy,ours,ours_goroutines; with -short only ours,ours_goroutines)")
	tests := f.String("test", "", "tests, separated by commas (default fairness,memory,loss,attacks; with -short soak, too)")
	f.DurationVar(&p.duration, "duration", 30*time.Second, "of each of the two loads of fairness; with -short 2s")
	f.DurationVar(&p.soakFor, "for", 20*time.Minute, "how long soak takes; with -short 30s")
	f.StringVar(&p.plot, "plot", "", "file for soak's figures over time, as SVG")
	f.Uint64Var(&p.seed, "seed", 1, "for what happens by chance in loss")
	f.StringVar(&p.json, "json", "", "file for the results")
	f.StringVar(&p.caddy, "caddy", "", "Caddy binary with this module (default: build ../cmd/caddy)")
	f.BoolVar(&p.short, "short", false, "small numbers, and wide limits for a busy machine")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case given["contestants"]:
	case p.short:
		*only = "ours,ours_goroutines"
	default:
		*only = "nginx,haproxy,reverse_proxy,ours,ours_goroutines"
	}
	if p.short && !given["duration"] {
		p.duration = 2 * time.Second
	}
	if p.short && !given["for"] {
		p.soakFor = 30 * time.Second
	}
	switch {
	case given["test"]:
	case p.short:
		*tests = strings.Join(allTests, ",")
	default:
		*tests = "fairness,memory,loss,attacks"
	}
	var err error
	if p.contestants, err = contestant.Select(*only); err != nil {
		return nil, err
	}
	p.tests = strings.Split(*tests, ",")
	for _, test := range p.tests {
		if !slices.Contains(allTests, test) {
			return nil, fmt.Errorf("no test is called %q; there are %s", test, strings.Join(allTests, ", "))
		}
	}
	if p.duration < time.Second || p.duration > 5*time.Minute {
		return nil, fmt.Errorf("-duration %v is not from 1s to 5m", p.duration)
	}
	if p.soakFor < 20*time.Second || p.soakFor > 24*time.Hour {
		return nil, fmt.Errorf("-for %v is not from 20s to 24h", p.soakFor)
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected %q", f.Args())
	}
	return p, nil
}

// size is how much is done, and what is still allowed.
type size struct {
	flooders   int
	flood      int           // bytes sent by each of them
	patience   time.Duration // with a proxy that takes no more of it
	warmUps    int
	handshakes int
	tunnels    int // with a partial record, and clients with a slow POST
	ends       int // tunnels that end
	drops      int // handshakes opened and dropped in attacks
	settle     time.Duration

	worstTrip time.Duration
	growth    int64   // bytes, under a flood and after handshakes
	each      float64 // bytes more per tunnel or client
	partial   float64 // the same, for a partial record in an event loop
	buffered  float64 // and for one with goroutines whose length is known

	soakGroups int // of WebSockets that stay
	soakTrip   time.Duration
}

// recordBuffer is what crypto/tls takes for a record as soon as it knows its length. It
// is more than the promise, which goroutines do not keep (docs/reliability.md): nobody
// can take the buffer back from one that waits. The short run sees that it is no worse.
const recordBuffer = 18 << 10

var (
	full = size{
		flooders: 4, flood: 16 << 20, patience: 5 * time.Second, warmUps: 10, handshakes: 10000, tunnels: 5000, ends: 500, drops: 2000, settle: 6 * time.Second,
		worstTrip: 100 * time.Millisecond, growth: 16 << 20, each: 4 << 10, partial: 4 << 10, buffered: 4 << 10,
		soakGroups: 12, soakTrip: 2 * time.Second,
	}
	small = size{
		flooders: 1, flood: 32 << 20, patience: 3 * time.Second, warmUps: 3, handshakes: 500, tunnels: 300, ends: 100, drops: 300, settle: 300 * time.Millisecond,
		worstTrip: time.Second, growth: 16 << 20, each: 16 << 10, partial: 4 << 10, buffered: recordBuffer,
		soakGroups: 1, soakTrip: 5 * time.Second,
	}
)

func (p *plan) run(ctx context.Context) error {
	size := full
	if p.short {
		size = small
	}
	dir, err := os.MkdirTemp("", "watchrtc-reliability-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lab, err := contestant.NewLab(ctx, dir, p.caddy, p.contestants, size.tunnels)
	if err != nil {
		return err
	}
	r := results{Machine: contestant.Machine(), Versions: map[string]string{}, Seed: p.seed, Limits: size.limits()}
	for _, c := range p.contestants {
		if r.Versions[c.Name], err = lab.Version(c); err != nil {
			return err
		}
	}
	y := &yard{lab, size, p.duration, p.soakFor, p.seed, &r}
	tests := map[string]func(context.Context, contestant.Contestant) error{"fairness": y.fairness, "memory": y.memory, "loss": y.loss, "attacks": y.attacks, "soak": y.soak}
	for _, test := range p.tests {
		for _, c := range p.contestants {
			start := time.Now()
			if err := tests[test](ctx, c); err != nil {
				return fmt.Errorf("%s, %s: %w", c.Name, test, err)
			}
			fmt.Fprintf(os.Stderr, "%s: %s (%v)\n", test, c.Name, time.Since(start).Round(time.Second))
		}
	}
	fmt.Print(r.markdown())
	if p.json != "" {
		b, err := json.MarshalIndent(r, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.json, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if p.plot != "" && len(r.Soak) > 0 {
		if err := os.WriteFile(p.plot, []byte(r.Soak[0].plot(r.Machine)), 0o644); err != nil {
			return err
		}
	}
	return r.verdict()
}

// yard is what the tests of one run share.
type yard struct {
	lab      *contestant.Lab
	size     size
	duration time.Duration
	soakFor  time.Duration
	seed     uint64
	results  *results
}
