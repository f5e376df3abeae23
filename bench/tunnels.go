package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
)

// tunnels measures memory, CPU and round trips of count tunnels.
func (b *bench) tunnels(ctx context.Context, s *subject, count int) (report.Sample, error) {
	m := tunnelMeasurement{bench: b, subject: s, count: count, sample: report.Sample{
		Tunnels: count, Values: map[string]float64{},
	}}
	err := m.run(ctx)
	return m.sample, err
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
	if err := load.Sleep(ctx, m.settle); err != nil {
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
	if err := load.Sleep(ctx, m.settle); err != nil {
		return err
	}
	if err := m.readMemory(report.AfterMemory); err != nil {
		return err
	}
	return m.profiler.snapshot(ctx, "after")
}

// open opens the tunnels. What a proxy does just after that is counted to the
// handshakes.
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
		return load.Sleep(ctx, m.settle/2)
	})
	m.sample.Values[report.HandshakeCPU] = used.Seconds() * 1e3 / float64(m.count)
	return tunnels, err
}

// rest reads what idle tunnels cost.
func (m *tunnelMeasurement) rest(ctx context.Context) error {
	used, elapsed, err := m.cost(func() error { return load.Sleep(ctx, m.settle/2) })
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
