package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
)

// soakResult is what a proxy went through, and what it looked like meanwhile.
type soakResult struct {
	Contestant string       `json:"contestant"`
	Seconds    float64      `json:"seconds"`
	Messages   int64        `json:"messages"`        // there and back, each byte compared
	Opened     int64        `json:"opened"`          // WebSockets that came and went, besides those that were ended
	Retried    int64        `json:"retried"`         // because a server that a reload replaced closed its connection
	Reloads    int64        `json:"reloads"`         // of the configuration
	Handshakes int64        `json:"handshakes"`      // opened and dropped
	Worst      float64      `json:"worst_ms"`        // round trip of a quiet WebSocket
	Floor      float64      `json:"direct_worst_ms"` // the same without a proxy
	Served     int          `json:"served"`          // quiet WebSockets that got each response in time
	Quiet      int          `json:"quiet"`
	Samples    []soakSample `json:"samples"`
	Ends       []lossResult `json:"ends"`
}

// soakSample is what the proxy holds at a moment.
type soakSample struct {
	Memory      float64 `json:"memory_mib"`
	Goroutines  float64 `json:"goroutines"`
	Descriptors float64 `json:"descriptors"`
	Failures    float64 `json:"handshake_failures"` // since the start
}

const (
	soakQuiet = 50
	soakGroup = 250  // WebSockets that stay are opened at once, and take turns
	soakPace  = "40" // messages a second of a group
	// generation is how long WebSockets stay that others come and go beside.
	generation = 5 * time.Minute
	soakRound  = 5 * time.Second // between two looks at whether it is over
	reloading  = 7 * time.Second
	sampled    = 240 // times in a run
)

// soak is a proxy under everything at once, for a while.
type soak struct {
	*subject
	*soakResult
	y      *yard
	ends   *opener
	tally  *tally
	config string // a Caddyfile with %d, by which one load differs from the next
	closed context.Context

	messages, opened, retried, reloads, dropped atomic.Int64
}

// soak has WebSockets that stay, that come and go, and that end in each way of loss, with
// attacks and reloads, all at once. It needs an admin endpoint to reload.
func (y *yard) soak(ctx context.Context, c contestant.Contestant) error {
	if !isOurs(c.Name) {
		return nil
	}
	s, err := y.newSoak(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	defer s.ends.relay.Close()
	if err := s.run(ctx); err != nil {
		return s.proxy.Explain(err)
	}
	s.sumUp(y.soakFor)
	y.results.Soak = append(y.results.Soak, *s.soakResult)
	return nil
}

func (y *yard) newSoak(ctx context.Context, c contestant.Contestant) (*soak, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	subject, err := y.start(ctx, c)
	if err != nil {
		ln.Close()
		return nil, err
	}
	s := &soak{subject: subject, soakResult: &soakResult{Contestant: c.Name, Quiet: soakQuiet}, y: y, tally: newTally(c.Name, false)}
	s.ends = &opener{lab: y.lab, relay: ln}
	if err := s.addSite(); err != nil {
		s.stop()
		ln.Close()
		return nil, err
	}
	return s, s.reload(ctx)
}

// addSite makes a configuration with a second site, whose relay is this process.
func (s *soak) addSite() error {
	spare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.ends.proxy = spare.Addr().String()
	if err := spare.Close(); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(s.y.lab.Dir, "watchrtc_proxy.caddyfile"))
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(content), "\t\ttransport", "\t\theader_up X-Load %[1]d\n\t\ttransport")
	_, site, _ := strings.Cut(text, "https://")
	site = strings.NewReplacer(s.proxy.Addr[strings.LastIndex(s.proxy.Addr, ":"):], s.ends.proxy[strings.LastIndex(s.ends.proxy, ":"):],
		s.relay.Addr, s.ends.relay.Addr().String()).Replace(site)
	s.config = text + "\nhttps://" + site
	return nil
}

// reload has the proxy replace its configuration.
func (s *soak) reload(ctx context.Context) error {
	s.ends.opening.Lock()
	defer s.ends.opening.Unlock()
	body := fmt.Sprintf(s.config, s.reloads.Add(1))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.proxy.Admin+"/load", strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(response.Body)
		return fmt.Errorf("loading the configuration: %s: %s", response.Status, why)
	}
	return load.Sleep(ctx, time.Second) // the old servers go a moment after the response
}

// run ends with the first error, or when the time is over.
func (s *soak) run(ctx context.Context) error {
	quiet, err := load.OpenQuiet(ctx, s.target, soakQuiet)
	if err != nil {
		return err
	}
	defer quiet.Close()
	direct, err := load.OpenQuiet(ctx, load.NewTarget(s.relay.Addr, contestant.RelayName, s.y.lab.Certs.Pool), 1)
	if err != nil {
		return err
	}
	defer direct.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stop context.CancelFunc
	s.closed, stop = context.WithTimeout(ctx, s.y.soakFor)
	defer stop()

	var parts sync.WaitGroup
	for name, part := range map[string]func(context.Context) error{
		"WebSockets that come and go": s.churn, "WebSockets that end": s.end,
		"attacks": s.attack, "reloads": s.reloadOften, "samples": s.sample,
	} {
		parts.Go(func() {
			if err := part(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	for range s.y.size.soakGroups {
		parts.Go(func() {
			if err := s.stay(ctx); err != nil {
				cancel(fmt.Errorf("WebSockets that stay: %w", err))
			}
		})
	}
	var floor []load.Trips
	parts.Go(func() { floor = direct.Probe(ctx, 4*quietPeriod, s.y.soakFor) })
	trips := quiet.Probe(ctx, 4*quietPeriod, s.y.soakFor)
	parts.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.Floor = slices.Max(append(floor[0].Times, 0)).Seconds() * 1e3
	limit := s.y.size.soakTrip + slices.Max(append(floor[0].Times, 0))
	for _, t := range trips {
		if t.Err == nil && len(t.Times) > 0 && slices.Max(t.Times) <= limit {
			s.Served++
		}
		s.Worst = max(s.Worst, slices.Max(append(t.Times, 0)).Seconds()*1e3)
		s.messages.Add(int64(len(t.Times)))
	}
	return nil
}

func (s *soak) over() bool { return s.closed.Err() != nil }

// open tries again where a reload has come between.
func (s *soak) open(ctx context.Context, n int) (*load.Tunnels, error) {
	for tries := 0; ; tries++ {
		tunnels, err := load.OpenTunnels(ctx, s.target, n)
		if err == nil {
			s.opened.Add(int64(n))
			return tunnels, nil
		}
		if tries == 5 || ctx.Err() != nil {
			return nil, err
		}
		s.retried.Add(1)
	}
}

// stay has WebSockets send all the time.
func (s *soak) stay(ctx context.Context) error {
	for !s.over() {
		tunnels, err := s.open(ctx, soakGroup)
		if err != nil {
			return err
		}
		err = s.send(ctx, tunnels, soakPace, time.Now().Add(generation))
		tunnels.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) send(ctx context.Context, tunnels *load.Tunnels, rate string, until time.Time) error {
	pace, err := load.ParsePace(rate)
	if err != nil {
		return err
	}
	for first := true; first || !s.over() && time.Now().Before(until); first = false {
		trips, err := tunnels.Send(ctx, pace, max(time.Second/2, min(soakRound, time.Until(until))))
		if err != nil {
			return err
		}
		s.messages.Add(int64(len(trips)))
	}
	return nil
}

// churn has few WebSockets come and go, again and again.
func (s *soak) churn(ctx context.Context) error {
	for !s.over() {
		tunnels, err := s.open(ctx, 20)
		if err != nil {
			return err
		}
		err = s.send(ctx, tunnels, "100", time.Now().Add(500*time.Millisecond))
		tunnels.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// end has WebSockets end in each way: resets, half-closes, killed processes and so on.
func (s *soak) end(ctx context.Context) error {
	return s.ends.endEach(ctx, s.tally, s.y.seed, 4, func(int) bool { return !s.over() })
}

// attack drops handshakes, and floods.
func (s *soak) attack(ctx context.Context) error {
	for !s.over() {
		const handshakes = 60
		if err := load.DropHandshakes(ctx, s.target, handshakes); err == nil {
			s.dropped.Add(handshakes)
		} else {
			s.retried.Add(1)
		}
		if _, err := s.target.FloodKeyUpdates(ctx, 1<<20, time.Second); err != nil {
			s.retried.Add(1)
		}
		if err := load.Sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) reloadOften(ctx context.Context) error {
	for !s.over() {
		select {
		case <-s.closed.Done():
			return nil
		case <-time.After(reloading):
		}
		if err := s.reload(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sample looks at the proxy from time to time.
func (s *soak) sample(ctx context.Context) error {
	for {
		select {
		case <-s.closed.Done():
			return ctx.Err()
		case <-time.After(max(s.y.soakFor/sampled, time.Second/4)):
		}
		// A reload replaces the admin endpoint, too.
		s.ends.opening.RLock()
		sample, err := s.look(ctx)
		s.ends.opening.RUnlock()
		if err != nil {
			return err
		}
		s.Samples = append(s.Samples, sample)
	}
}

func (s *soak) look(ctx context.Context) (soakSample, error) {
	memory, err := s.proxy.PSS()
	if err != nil {
		return soakSample{}, err
	}
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.proxy.PID()))
	if err != nil {
		return soakSample{}, err
	}
	goroutines, err := s.goroutines(ctx)
	if err != nil {
		return soakSample{}, err
	}
	var status struct {
		Upstreams []struct {
			Failures float64 `json:"handshake_failures_total"`
		}
	}
	err = s.proxy.Get(ctx, "/watchrtc_proxy/status", func(body io.Reader) error { return json.NewDecoder(body).Decode(&status) })
	sample := soakSample{Memory: float64(memory) / (1 << 20), Descriptors: float64(len(descriptors)), Goroutines: goroutines}
	for _, upstream := range status.Upstreams {
		sample.Failures += upstream.Failures
	}
	return sample, err
}

func (s *soak) goroutines(ctx context.Context) (n float64, err error) {
	err = s.proxy.Get(ctx, "/debug/pprof/goroutine?debug=1", func(body io.Reader) error {
		_, err := fmt.Fscanf(body, "goroutine profile: total %g", &n)
		return err
	})
	return n, err
}
