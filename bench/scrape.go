package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// scrapeInterval is much shorter than what is usual, so that a cost would show.
const scrapeInterval = time.Second

// scrape reads the metrics at an admin endpoint again and again. stop ends that, and
// returns what went wrong.
func scrape(ctx context.Context, admin string) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var failed error
	var done sync.WaitGroup
	done.Go(func() {
		ticks := time.NewTicker(scrapeInterval)
		defer ticks.Stop()
		for failed == nil && ctx.Err() == nil {
			failed = scrapeOnce(ctx, admin)
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

func scrapeOnce(ctx context.Context, admin string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
	}
	switch {
	case ctx.Err() != nil: // it has been told to stop
		return nil
	case err != nil:
		return fmt.Errorf("reading the metrics: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("reading the metrics: status %s", resp.Status)
	}
	return nil
}
