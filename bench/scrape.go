package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
)

// scrapeInterval is much shorter than what is usual, so that a cost would show.
const scrapeInterval = time.Second

// scrape reads a Caddy's metrics again and again. stop ends that, and returns what went
// wrong.
func scrape(ctx context.Context, proxy *contestant.Process) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var failed error
	var done sync.WaitGroup
	done.Go(func() {
		ticks := time.NewTicker(scrapeInterval)
		defer ticks.Stop()
		for failed == nil && ctx.Err() == nil {
			failed = scrapeOnce(ctx, proxy)
			select {
			case <-ctx.Done():
			case <-ticks.C:
			}
		}
	})
	return func() error {
		cancel()
		done.Wait()
		return failed
	}
}

func scrapeOnce(ctx context.Context, proxy *contestant.Process) error {
	err := proxy.Get(ctx, "/metrics", contestant.Discard)
	switch {
	case ctx.Err() != nil: // it has been told to stop
		return nil
	case err != nil:
		return fmt.Errorf("reading the metrics: %w", err)
	}
	return nil
}
