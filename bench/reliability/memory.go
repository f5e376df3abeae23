package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
)

// memoryResult is how a proxy's memory grew.
type memoryResult struct {
	Contestant string `json:"contestant"`
	Attack     string `json:"attack"`
	Count      int    `json:"count,omitempty"` // of tunnels or connections, where growth is judged by each
	Sent       int    `json:"sent_bytes,omitempty"`
	Peak       int64  `json:"peak_growth_bytes"`
	After      int64  `json:"growth_afterwards_bytes"`
	Heap       *int64 `json:"live_heap_growth_bytes,omitempty"` // of a Caddy, after a collection
}

// The attacks. What the first two make a proxy hold is judged as a whole, the
// others by how much more each costs than when it is idle.
const (
	keyUpdates   = "KeyUpdate flood"
	handshakes   = "handshakes dropped"
	oneByte      = "one byte of a TLS record"
	recordHeader = "a TLS record's header and one byte"
	slowPosts    = "a few bytes of a POST"
)

// subject is a contestant under attack, in front of a relay of its own.
type subject struct {
	relay, proxy *contestant.Process
	target       load.Target
}

func (y *yard) start(ctx context.Context, c contestant.Contestant) (*subject, error) {
	relay, err := y.lab.StartRelay(ctx)
	if err != nil {
		return nil, err
	}
	proxy, err := y.lab.Start(ctx, c, relay.Addr)
	if err != nil {
		relay.Stop()
		return nil, err
	}
	return &subject{relay, proxy, load.NewTarget(proxy.Addr, contestant.ProxyName, y.lab.Certs.Pool)}, nil
}

func (s *subject) stop() {
	s.proxy.Stop()
	s.relay.Stop()
}

func (y *yard) memory(ctx context.Context, c contestant.Contestant) error {
	for _, attack := range []func(context.Context, *watch) error{y.floodKeyUpdates, y.dropHandshakes, y.partialRecords, y.beginPosts} {
		if err := y.attack(ctx, c, attack); err != nil {
			return err
		}
	}
	return nil
}

// attack has a fresh process attacked once it is warm.
func (y *yard) attack(ctx context.Context, c contestant.Contestant, attack func(context.Context, *watch) error) error {
	s, err := y.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.warmUp(ctx, y.size.warmUps); err != nil {
		return fmt.Errorf("warming up: %w", s.proxy.Explain(err))
	}
	w := &watch{subject: s, contestant: c.Name, settle: y.size.settle, results: y.results}
	if err := w.rest(ctx); err != nil {
		return err
	}
	if err := attack(ctx, w); err != nil {
		return s.proxy.Explain(err)
	}
	return nil
}

// warmUp has a proxy do what it does only once, so that this is not counted as growth.
func (s *subject) warmUp(ctx context.Context, times int) error {
	pace, err := load.ParsePace("400")
	if err != nil {
		return err
	}
	for range times {
		tunnels, err := load.OpenTunnels(ctx, s.target, 32)
		if err != nil {
			return err
		}
		_, err = tunnels.Send(ctx, pace, time.Second/10)
		tunnels.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (y *yard) floodKeyUpdates(ctx context.Context, w *watch) error {
	return w.during(ctx, memoryResult{Attack: keyUpdates}, func(r *memoryResult) error {
		sent, errs := make([]int, y.size.flooders), make([]error, y.size.flooders)
		var clients sync.WaitGroup
		for i := range y.size.flooders {
			clients.Go(func() { sent[i], errs[i] = w.target.FloodKeyUpdates(ctx, y.size.flood, y.size.patience) })
		}
		clients.Wait()
		for _, n := range sent {
			r.Sent += n
		}
		return errors.Join(errs...)
	})
}

func (y *yard) dropHandshakes(ctx context.Context, w *watch) error {
	return w.during(ctx, memoryResult{Attack: handshakes}, func(*memoryResult) error {
		return load.DropHandshakes(ctx, w.target, y.size.handshakes)
	})
}

func (y *yard) partialRecords(ctx context.Context, w *watch) error {
	tunnels, err := load.OpenTunnels(ctx, w.target, y.size.tunnels)
	if err != nil {
		return err
	}
	defer tunnels.Close()
	if err := w.rest(ctx); err != nil {
		return err
	}
	idle := w.before
	for _, part := range []struct {
		attack string
		bytes  []byte
	}{
		{oneByte, []byte{23}},
		{recordHeader, []byte{3, 3, 0x40, 0x11, 0}}, // 16 KiB and what encryption adds
	} {
		w.before = idle
		err := w.during(ctx, memoryResult{Attack: part.attack, Count: y.size.tunnels}, func(*memoryResult) error {
			return tunnels.WriteRaw(part.bytes)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (y *yard) beginPosts(ctx context.Context, w *watch) error {
	posters, err := load.OpenPosters(ctx, w.target, y.size.tunnels)
	if err != nil {
		return err
	}
	defer posters.Close()
	if err := posters.PostEach(); err != nil {
		return err
	}
	if err := w.rest(ctx); err != nil {
		return err
	}
	return w.during(ctx, memoryResult{Attack: slowPosts, Count: y.size.tunnels}, func(*memoryResult) error {
		return posters.Begin(5)
	})
}

// watch looks at a proxy's memory.
type watch struct {
	*subject
	contestant string
	settle     time.Duration
	before     reading
	results    *results
}

type reading struct {
	memory int64
	heap   *int64
}

// rest reads the memory after a pause. Growth is counted from there.
func (w *watch) rest(ctx context.Context) (err error) {
	if err := load.Sleep(ctx, w.settle); err != nil {
		return err
	}
	w.before, err = w.read(ctx)
	return err
}

// during fills in how the memory grows while f runs, and what is left of it.
func (w *watch) during(ctx context.Context, r memoryResult, f func(*memoryResult) error) error {
	done := make(chan error, 1)
	go func() { done <- f(&r) }()
	var peak int64
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			running = false
		case <-time.After(100 * time.Millisecond):
		}
		memory, err := w.proxy.PSS()
		if err != nil {
			return err
		}
		peak = max(peak, memory)
	}
	if err := load.Sleep(ctx, w.settle); err != nil {
		return err
	}
	after, err := w.read(ctx)
	if err != nil {
		return err
	}
	r.Contestant = w.contestant
	r.Peak, r.After = max(peak, after.memory)-w.before.memory, after.memory-w.before.memory
	if after.heap != nil && w.before.heap != nil {
		grown := *after.heap - *w.before.heap
		r.Heap = &grown
	}
	w.results.Memory = append(w.results.Memory, r)
	return nil
}

// read reads the memory first, as asking a Caddy for its heap has it collect
// its garbage.
func (w *watch) read(ctx context.Context) (r reading, err error) {
	if r.memory, err = w.proxy.PSS(); err != nil || w.proxy.Admin == "" {
		return r, err
	}
	if err := w.proxy.Get(ctx, "/debug/pprof/heap?gc=1", contestant.Discard); err != nil {
		return r, err
	}
	var vars struct {
		Memstats struct{ HeapAlloc int64 } `json:"memstats"`
	}
	err = w.proxy.Get(ctx, "/debug/vars", func(body io.Reader) error {
		return json.NewDecoder(body).Decode(&vars)
	})
	r.heap = &vars.Memstats.HeapAlloc
	return r, err
}
