// Command bench compares watchrtc_proxy with nginx, HAProxy and Caddy's
// reverse_proxy. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 4 && args[0] == "relay" { // how Lab.StartRelay calls it
		return relay.Serve(ctx, args[1], args[2], args[3])
	}
	p, err := parsePlan(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.render != "" {
		return render(p)
	}
	return p.run(ctx)
}

// plan is what the command line asks for.
type plan struct {
	contestants []contestant.Contestant
	tunnels     []int
	paces       []load.Pace
	rounds      int
	duration    time.Duration
	settle      time.Duration
	caddy       string
	out         string
	profiles    string
	render      string
	short       bool
}

// maxTunnels fit into the 28,000 ports that Linux gives to connections from
// one address to another, as one tunnel takes one on each leg.
const maxTunnels = 25000

func parsePlan(args []string) (*plan, error) {
	p := &plan{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&p.short, "short", false, "only see that everything works: -tunnels 100 -rates 500 -rounds 1 -duration 2s -settle 500ms, unless given")
	tunnels := f.String("tunnels", "3000", "how many tunnels; with several counts, separated by commas, they are compared too")
	rates := f.String("rates", "1500,6000", "messages a second over all tunnels; or sdk, each tunnel once in 8 s; or burst, all at once each second")
	only := f.String("only", "nginx,haproxy,reverse_proxy,ours", "contestants, separated by commas; there are ours_goroutines and ours_scraped, too")
	f.IntVar(&p.rounds, "rounds", 3, "how often everything is measured")
	f.DurationVar(&p.duration, "duration", 10*time.Second, "of each load")
	f.DurationVar(&p.settle, "settle", 6*time.Second, "pause before memory is read")
	f.StringVar(&p.caddy, "caddy", "", "Caddy binary with this module (default: build ../cmd/caddy)")
	f.StringVar(&p.out, "out", "out", "directory for the results")
	f.StringVar(&p.profiles, "profile", "", "directory for CPU and heap profiles of the Caddys, which slow these down")
	f.StringVar(&p.render, "render", "", "measure nothing, make table and plot from this results.json")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if p.short {
		if err := shorten(f); err != nil {
			return nil, err
		}
	}
	var errs [3]error
	p.contestants, errs[0] = contestant.Select(*only)
	p.tunnels, errs[1] = parseCounts(*tunnels)
	p.paces, errs[2] = parsePaces(*rates)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return p, p.validate(f.Args())
}

// shorten sets what -short stands for, but for flags that were given.
func shorten(f *flag.FlagSet) error {
	values := map[string]string{"tunnels": "100", "rates": "500", "rounds": "1", "duration": "2s", "settle": "500ms"}
	f.Visit(func(given *flag.Flag) { delete(values, given.Name) })
	for name, value := range values {
		if err := f.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (p *plan) validate(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected %q", rest)
	case p.rounds < 1 || p.rounds > 100:
		return fmt.Errorf("-rounds %d is not from 1 to 100", p.rounds)
	case p.duration < time.Second || p.duration > 5*time.Minute:
		return fmt.Errorf("-duration %v is not from 1s to 5m", p.duration)
	case p.settle < 0 || p.settle > time.Minute:
		return fmt.Errorf("-settle %v is not from 0 to 1m", p.settle)
	}
	return nil
}

func parseCounts(s string) ([]int, error) {
	var counts []int
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > maxTunnels {
			return nil, fmt.Errorf("-tunnels %q is not from 1 to %d", word, maxTunnels)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

func parsePaces(s string) ([]load.Pace, error) {
	var paces []load.Pace
	for word := range strings.SplitSeq(s, ",") {
		pace, err := load.ParsePace(word)
		if err != nil {
			return nil, err
		}
		paces = append(paces, pace)
	}
	return paces, nil
}
