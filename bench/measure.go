package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
)

// bench measures one contestant at a time.
type bench struct {
	lab      *contestant.Lab
	paces    []load.Pace
	duration time.Duration // of each load
	settle   time.Duration // before memory is read
	profiles string        // directory, or none
}

const (
	// posters are the connections that post: enough to keep two cores busy.
	posters = 32
	// warmTunnels are opened and closed, warmRounds times, before the baseline is
	// taken, so that what a proxy sets up once is not counted to its first tunnels.
	// A Go program has to go through some collections before its heap has the size
	// that it keeps.
	warmTunnels = 32
	warmRounds  = 10
)

// measure takes a sample of a fresh contestant in front of a fresh relay.
func (b *bench) measure(ctx context.Context, c contestant.Contestant, take func(context.Context, *subject) (report.Sample, error)) (sample report.Sample, err error) {
	relay, err := b.lab.StartRelay(ctx)
	if err != nil {
		return report.Sample{}, err
	}
	defer relay.Stop()
	p, err := b.lab.Start(ctx, c, relay.Addr)
	if err != nil {
		return report.Sample{}, err
	}
	defer p.Stop()
	s := &subject{p, relay, load.NewTarget(p.Addr, contestant.ProxyName, b.lab.Certs.Pool), newProfiler(b.profiles, c, p)}
	if c.Scraped {
		stop := scrape(ctx, p)
		defer func() { err = errors.Join(err, stop()) }()
	}
	for range warmRounds {
		if err := s.warmUp(ctx); err != nil {
			return report.Sample{}, fmt.Errorf("warming up: %w", p.Explain(err))
		}
	}
	others, err := s.others(func() (err error) {
		sample, err = take(ctx, s)
		return err
	})
	if err != nil {
		return report.Sample{}, p.Explain(err)
	}
	sample.Contestant, sample.Others = c.Name, others
	return sample, nil
}

// subject is a contestant that is being measured.
type subject struct {
	*contestant.Process
	relay    *contestant.Process
	target   load.Target
	profiler profiler
}

func (s *subject) warmUp(ctx context.Context) error {
	tunnels, err := load.OpenTunnels(ctx, s.target, warmTunnels)
	if err != nil {
		return err
	}
	defer tunnels.Close()
	pace, err := load.ParsePace("400")
	if err != nil {
		return err
	}
	_, err = tunnels.Send(ctx, pace, time.Second/10)
	return err
}

// cost returns the CPU time that the proxy uses while f runs.
func (s *subject) cost(f func() error) (used, elapsed time.Duration, err error) {
	before, err := s.CPU()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return 0, 0, err
	}
	elapsed = time.Since(start)
	after, err := s.CPU()
	return after - before, elapsed, err
}

// others returns how many cores other programs use while f runs.
func (s *subject) others(f func() error) (cores float64, err error) {
	before, err := s.othersCPU()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return 0, err
	}
	after, err := s.othersCPU()
	return max(0, (after-before).Seconds()/time.Since(start).Seconds()), err
}

func (s *subject) othersCPU() (time.Duration, error) {
	all, err1 := contestant.MachineCPU()
	proxy, err2 := s.CPU()
	relay, err3 := s.relay.CPU()
	self, err4 := contestant.OwnCPU()
	return all - proxy - relay - self, errors.Join(err1, err2, err3, err4)
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }
