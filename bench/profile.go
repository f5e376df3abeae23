package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
)

// profiler fetches profiles from a Caddy's admin endpoint. The zero value, and
// one for a contestant that is no Caddy, does nothing.
type profiler struct {
	proxy *contestant.Process
	base  string // of file names
}

func newProfiler(dir string, c contestant.Contestant, p *contestant.Process) profiler {
	if dir == "" || p.Admin == "" {
		return profiler{}
	}
	return profiler{p, filepath.Join(dir, c.Name)}
}

// during profiles the CPU while f runs, which takes about d.
func (p profiler) during(ctx context.Context, phase string, d time.Duration, f func() error) error {
	if p.proxy == nil {
		return f()
	}
	fetched := make(chan error, 1)
	go func() {
		seconds := max(1, int(d.Seconds()))
		fetched <- p.fetch(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), phase+"-cpu.pb.gz")
	}()
	return errors.Join(f(), <-fetched)
}

// snapshot fetches what says where the memory is.
func (p profiler) snapshot(ctx context.Context, phase string) error {
	if p.proxy == nil {
		return nil
	}
	return errors.Join(
		p.fetch(ctx, "/debug/pprof/heap?gc=1", phase+"-heap.pb.gz"),
		p.fetch(ctx, "/debug/vars", phase+"-vars.json"), // runtime.MemStats, without garbage
		p.fetch(ctx, "/debug/pprof/goroutine", phase+"-goroutine.pb.gz"))
}

func (p profiler) fetch(ctx context.Context, path, name string) error {
	return p.proxy.Get(ctx, path, func(body io.Reader) error {
		f, err := os.Create(p.base + "-" + strings.ReplaceAll(name, "/", "-"))
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	})
}
