package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
)

// run measures everything and writes the results.
func (p *plan) run(ctx context.Context) error {
	for _, out := range []string{p.out, p.profiles} {
		if err := os.MkdirAll(out, 0o755); out != "" && err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "watchrtc-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	lab, err := contestant.NewLab(ctx, dir, p.caddy, p.contestants, slices.Max(p.tunnels))
	if err != nil {
		return err
	}
	results, err := p.newResults(lab)
	if err != nil {
		return err
	}
	b := &bench{lab: lab, paces: p.paces, duration: p.duration, settle: p.settle, profiles: p.profiles}
	if err := p.measure(ctx, b, results); err != nil {
		return err
	}
	return write(results, p.out)
}

func (p *plan) newResults(lab *contestant.Lab) (*report.Run, error) {
	r := &report.Run{
		Machine: contestant.Machine(),
		Settings: fmt.Sprintf("Rounds: %d, with %v of each load and %v of settling; TLS 1.3 with X25519, AES-128-GCM and ECDSA P-256 on both legs",
			p.rounds, p.duration, p.settle),
	}
	for _, c := range p.contestants {
		v, err := lab.Version(c)
		if err != nil {
			return nil, err
		}
		r.Contestants = append(r.Contestants, report.Contestant{Name: c.Name, Version: v})
	}
	for _, pace := range p.paces {
		r.Paces = append(r.Paces, pace.String())
	}
	return r, nil
}

// measure takes turns among the contestants, each round starting with another
// one, so that a machine that slows down slows down all of them.
func (p *plan) measure(ctx context.Context, b *bench, r *report.Run) error {
	for round := range p.rounds {
		turn := round % len(p.contestants)
		order := slices.Concat(p.contestants[turn:], p.contestants[:turn])
		for _, job := range p.jobs(b) {
			for _, c := range order {
				start := time.Now()
				sample, err := b.measure(ctx, c, job.take)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", c.Name, job.name, err)
				}
				sample.Round = round + 1
				r.Samples = append(r.Samples, sample)
				fmt.Fprintf(os.Stderr, "round %d of %d: %s, %s (%v)\n", round+1, p.rounds, c.Name, job.name, time.Since(start).Round(time.Second))
			}
		}
	}
	return nil
}

// job is one measurement on a fresh process.
type job struct {
	name string
	take func(context.Context, *subject) (report.Sample, error)
}

func (p *plan) jobs(b *bench) []job {
	var jobs []job
	for _, count := range p.tunnels {
		jobs = append(jobs, job{fmt.Sprintf("%d tunnels", count),
			func(ctx context.Context, s *subject) (report.Sample, error) { return b.tunnels(ctx, s, count) }})
	}
	return append(jobs, job{"posts", b.posts}, job{"bulk", b.bulk})
}

// render makes table and plot anew.
func render(p *plan) error {
	r, err := report.ReadRun(p.render)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.out, 0o755); err != nil {
		return err
	}
	return write(r, p.out)
}

func write(r *report.Run, dir string) error {
	table := r.Markdown(contestant.Ours)
	fmt.Print(table)
	return errors.Join(
		r.Write(filepath.Join(dir, "results.json")),
		os.WriteFile(filepath.Join(dir, "table.md"), []byte(table), 0o644),
		os.WriteFile(filepath.Join(dir, "plot.svg"), []byte(r.Plot(contestant.Ours)), 0o644))
}
