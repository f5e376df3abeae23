package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
)

// bench measures one contestant at a time.
type bench struct {
	lab      contestant.Lab
	paces    []load.Pace
	duration time.Duration // of each load
	settle   time.Duration // before memory is read
	profiles string        // directory, or none
}

const (
	// posters are the connections that post: enough to keep two cores busy.
	posters = 32
	// warmTunnels are opened and closed before the baseline is taken, so
	// that what a proxy sets up once is not counted to its first tunnels.
	warmTunnels = 32
)

// subject is a fresh contestant in front of a fresh relay.
type subject struct {
	*contestant.Process
	target   load.Target
	profiler profiler
}

func (b *bench) start(ctx context.Context, c contestant.Contestant) (*subject, func(), error) {
	relay, err := b.lab.StartRelay(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, err := b.lab.Start(ctx, c, relay.Addr)
	if err != nil {
		relay.Stop()
		return nil, nil, err
	}
	s := &subject{p, load.NewTarget(p.Addr, contestant.ProxyName, b.lab.Certs.Pool), newProfiler(b.profiles, c, p)}
	if err := s.warmUp(ctx); err != nil {
		err = fmt.Errorf("warming up: %w", p.Explain(err))
		p.Stop()
		relay.Stop()
		return nil, nil, err
	}
	return s, func() { p.Stop(); relay.Stop() }, nil
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
	_, err = tunnels.Send(ctx, pace, time.Second/2)
	return err
}

// tunnels measures memory, CPU and round trips of count tunnels.
func (b *bench) tunnels(ctx context.Context, c contestant.Contestant, count int) (report.Sample, error) {
	s, stop, err := b.start(ctx, c)
	if err != nil {
		return report.Sample{}, err
	}
	defer stop()
	m := tunnelMeasurement{bench: b, subject: s, count: count, sample: report.Sample{
		Contestant: c.Name, Tunnels: count, Values: map[string]float64{},
	}}
	if err := m.run(ctx); err != nil {
		return report.Sample{}, s.Explain(err)
	}
	return m.sample, nil
}

type tunnelMeasurement struct {
	*bench
	*subject
	count    int
	sample   report.Sample
	baseline int64   // memory without tunnels
	idle     float64 // CPU seconds a second with tunnels at rest
}

func (m *tunnelMeasurement) run(ctx context.Context) (err error) {
	if err := sleep(ctx, m.settle); err != nil {
		return err
	}
	if m.baseline, err = m.PSS(); err != nil {
		return err
	}
	tunnels, err := m.open(ctx)
	if err != nil {
		return err
	}
	defer tunnels.Close()
	if err := m.rest(ctx); err != nil {
		return err
	}
	for _, pace := range m.paces {
		if err := m.send(ctx, tunnels, pace); err != nil {
			return fmt.Errorf("at %s: %w", pace, err)
		}
	}
	if err := sleep(ctx, m.settle); err != nil {
		return err
	}
	if err := m.readMemory(report.AfterMemory); err != nil {
		return err
	}
	return m.profiler.snapshot(ctx, "after")
}

// open opens the tunnels. What a proxy still does just after belongs to it.
func (m *tunnelMeasurement) open(ctx context.Context) (tunnels *load.Tunnels, err error) {
	expected := time.Duration(m.count)*2*time.Millisecond + time.Second
	used, _, err := m.cost(func() error {
		err := m.profiler.during(ctx, "open", expected, func() error {
			tunnels, err = load.OpenTunnels(ctx, m.target, m.count)
			return err
		})
		if err != nil {
			return err
		}
		return sleep(ctx, m.settle/2)
	})
	m.sample.Values[report.HandshakeCPU] = used.Seconds() * 1e3 / float64(m.count)
	return tunnels, err
}

// rest reads what idle tunnels cost.
func (m *tunnelMeasurement) rest(ctx context.Context) error {
	used, elapsed, err := m.cost(func() error { return sleep(ctx, m.settle/2) })
	if err != nil {
		return err
	}
	m.idle = used.Seconds() / elapsed.Seconds()
	if err := m.readMemory(report.IdleMemory); err != nil {
		return err
	}
	return m.profiler.snapshot(ctx, "idle")
}

func (m *tunnelMeasurement) send(ctx context.Context, tunnels *load.Tunnels, pace load.Pace) error {
	var trips []time.Duration
	used, elapsed, err := m.cost(func() error {
		return m.profiler.during(ctx, pace.String(), m.duration, func() (err error) {
			trips, err = tunnels.Send(ctx, pace, m.duration)
			return err
		})
	})
	if err != nil {
		return err
	}
	if len(trips) == 0 {
		return fmt.Errorf("no message was due within %v", m.duration)
	}
	cpu := used.Seconds() - m.idle*elapsed.Seconds()
	values := m.sample.Values
	values[report.At(report.MessageCPU, pace.String())] = cpu * 1e6 / float64(len(trips))
	values[report.At(report.MessageP50, pace.String())] = milliseconds(report.Percentile(trips, 0.50))
	values[report.At(report.MessageP99, pace.String())] = milliseconds(report.Percentile(trips, 0.99))
	m.sample.Verified += len(trips)
	return nil
}

func (m *tunnelMeasurement) readMemory(key string) error {
	pss, err := m.PSS()
	m.sample.Values[key] = float64(pss-m.baseline) / 1024 / float64(m.count)
	return err
}

// posts measures how many POSTs a second go through.
func (b *bench) posts(ctx context.Context, c contestant.Contestant) (report.Sample, error) {
	s, stop, err := b.start(ctx, c)
	if err != nil {
		return report.Sample{}, err
	}
	defer stop()
	sample, err := b.post(ctx, s)
	if err != nil {
		return report.Sample{}, s.Explain(err)
	}
	sample.Contestant = c.Name
	return sample, nil
}

func (b *bench) post(ctx context.Context, s *subject) (report.Sample, error) {
	p, err := load.OpenPosters(ctx, s.target, posters)
	if err != nil {
		return report.Sample{}, err
	}
	defer p.Close()
	if _, err := p.Post(ctx, time.Second); err != nil { // connections to the relay are opened
		return report.Sample{}, err
	}
	var trips []time.Duration
	used, elapsed, err := s.cost(func() error {
		return s.profiler.during(ctx, "posts", b.duration, func() (err error) {
			trips, err = p.Post(ctx, b.duration)
			return err
		})
	})
	return report.Sample{Verified: len(trips), Values: map[string]float64{
		report.Posts:   float64(len(trips)) / elapsed.Seconds(),
		report.PostCPU: used.Seconds() * 1e6 / float64(len(trips)),
		report.PostP99: milliseconds(report.Percentile(trips, 0.99)),
	}}, err
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

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1e3 }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
