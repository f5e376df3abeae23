package main

import (
	"context"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// bulkTunnels are one more than the smallest machine has cores.
const bulkTunnels = 3

// bulk measures the throughput of a few tunnels that never pause, first to the relay,
// then to the client.
func (b *bench) bulk(ctx context.Context, s *subject) (report.Sample, error) {
	sample := report.Sample{Values: map[string]float64{}}
	var cpu time.Duration
	for _, way := range []struct {
		key   string
		phase string
		carry func(*load.Bulk, context.Context, time.Duration) (int, error)
	}{
		{report.BulkUp, "bulk-up", (*load.Bulk).Send},
		{report.BulkDown, "bulk-down", (*load.Bulk).Receive},
	} {
		tunnels, err := load.OpenBulk(ctx, s.target, bulkTunnels)
		if err != nil {
			return sample, err
		}
		defer tunnels.Close()
		var frames int
		used, elapsed, err := s.cost(func() error {
			return s.profiler.during(ctx, way.phase, b.duration, func() (err error) {
				frames, err = way.carry(tunnels, ctx, b.duration)
				return err
			})
		})
		if err != nil {
			return sample, err
		}
		cpu += used
		sample.Verified += frames
		sample.Values[way.key] = megabytes(frames) / elapsed.Seconds()
	}
	sample.Values[report.BulkCPU] = milliseconds(cpu) / megabytes(sample.Verified)
	return sample, nil
}

// megabytes are millions of bytes.
func megabytes(frames int) float64 { return float64(frames) * wire.BulkFrameSize / 1e6 }
