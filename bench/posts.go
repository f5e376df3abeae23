package main

import (
	"context"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
)

// posts measures how many POSTs a second go through.
func (b *bench) posts(ctx context.Context, s *subject) (report.Sample, error) {
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
	if err == nil {
		err = s.profiler.snapshot(ctx, "posts")
	}
	return report.Sample{Verified: len(trips), Values: map[string]float64{
		report.Posts:   float64(len(trips)) / elapsed.Seconds(),
		report.PostCPU: used.Seconds() * 1e6 / float64(len(trips)),
		report.PostP99: milliseconds(report.Percentile(trips, 0.99)),
	}}, err
}
