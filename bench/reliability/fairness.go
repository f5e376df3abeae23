package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

const (
	fastSenders = 3
	quietPeriod = 50 * time.Millisecond
	// prompt is how soon each reply must come for a tunnel to count as served.
	prompt = time.Second
)

// fairnessResult is what quiet tunnels saw while others sent as fast as they
// could.
type fairnessResult struct {
	Contestant string  `json:"contestant"`
	Quiet      int     `json:"quiet_tunnels"`
	Served     int     `json:"served"` // every reply came within a second
	Trips      int     `json:"round_trips"`
	P99        float64 `json:"p99_ms"`
	Worst      float64 `json:"worst_ms"`
	FloorP99   float64 `json:"direct_p99_ms"` // without a proxy, from the same process to the same relay
	FloorWorst float64 `json:"direct_worst_ms"`
	Fast       float64 `json:"fast_senders_mb_per_s"`
	Failure    string  `json:"failure,omitempty"` // the first of a quiet tunnel
}

func (y *yard) fairness(ctx context.Context, c contestant.Contestant) error {
	for _, quiet := range []int{1, 200} {
		if err := y.fairnessBeside(ctx, c, quiet); err != nil {
			return err
		}
	}
	return nil
}

func (y *yard) fairnessBeside(ctx context.Context, c contestant.Contestant, quiet int) error {
	s, err := y.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	tunnels, err := load.OpenQuiet(ctx, s.target, quiet)
	if err != nil {
		return s.proxy.Explain(err)
	}
	defer tunnels.Close()
	direct, err := load.OpenQuiet(ctx, load.NewTarget(s.relay.Addr, contestant.RelayName, y.lab.Certs.Pool), 1)
	if err != nil {
		return err
	}
	defer direct.Close()
	senders, err := y.startSenders(s.proxy.Addr)
	if err != nil {
		return err
	}
	defer senders.kill()
	defer favour(s.relay.PID())()
	defer favour(os.Getpid())()
	floor := make(chan []load.Trips, 1)
	go func() { floor <- direct.Probe(ctx, quietPeriod, y.duration) }()
	trips := tunnels.Probe(ctx, quietPeriod, y.duration)
	r := sumUp(trips)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	below := sumUp(<-floor)
	r.Contestant, r.FloorP99, r.FloorWorst = c.Name, below.P99, below.Worst
	r.Fast = float64(senders.frames()) * wire.BulkFrameSize / 1e6 / y.duration.Seconds()
	y.results.Fairness = append(y.results.Fairness, r)
	return nil
}

// favour raises the priority of a process, if that is permitted, until the function it
// returns is called. Otherwise the quiet tunnels would wait for the relay, and for this
// process, rather than for the proxy.
func favour(pid int) (stop func()) {
	set := func(nice int) {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			if tid, err := strconv.Atoi(task.Name()); err == nil {
				_ = syscall.Setpriority(syscall.PRIO_PROCESS, tid, nice)
			}
		}
	}
	set(-10)
	return func() { set(0) }
}

// sumUp counts, for a reply that took longer than a period, also the messages that
// would have been sent meanwhile, with what was left of the wait. Otherwise a tunnel
// that is starved would count only once.
func sumUp(tunnels []load.Trips) fairnessResult {
	r := fairnessResult{Quiet: len(tunnels)}
	var all []float64
	for _, t := range tunnels {
		served := t.Err == nil && len(t.Times) > 0
		for _, trip := range t.Times {
			served = served && trip <= prompt
			r.Trips++
			for wait := trip; wait > 0; wait -= quietPeriod {
				all = append(all, wait.Seconds()*1e3)
			}
		}
		if served {
			r.Served++
		}
		if t.Err != nil && r.Failure == "" {
			r.Failure = t.Err.Error()
		}
	}
	if len(all) > 0 {
		slices.Sort(all)
		r.P99, r.Worst = all[(len(all)-1)*99/100], all[len(all)-1]
	}
	return r
}

// senders are processes of their own, so that the clock of the quiet tunnels'
// does not depend on them.
type senders struct {
	commands []*exec.Cmd
	outputs  []*bufio.Reader
}

// startSenders returns once each has opened its tunnel and is about to send.
func (y *yard) startSenders(addr string) (*senders, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &senders{}
	for range fastSenders {
		cmd := exec.Command(self, "sender", addr, y.lab.Certs.Roots, y.duration.String())
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			s.kill()
			return nil, err
		}
		s.commands, s.outputs = append(s.commands, cmd), append(s.outputs, bufio.NewReader(out))
	}
	for _, out := range s.outputs {
		if _, err := out.ReadString('\n'); err != nil {
			s.kill()
			return nil, fmt.Errorf("a sender did not start: %w", err)
		}
	}
	return s, nil
}

// frames is how many frames the relay has confirmed, those of tunnels that were
// cut left out.
func (s *senders) frames() (total int) {
	for i, cmd := range s.commands {
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		line, _ := s.outputs[i].ReadString('\n')
		timer.Stop()
		n, _ := strconv.Atoi(strings.TrimSpace(line))
		total += n
	}
	return total
}

func (s *senders) kill() {
	for _, cmd := range s.commands {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// readRoots reads the certificates that a client trusts.
func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

// sendFast is what a sender's process does.
func sendFast(ctx context.Context, addr, roots, duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	pool, err := readRoots(roots)
	if err != nil {
		return err
	}
	b, err := load.OpenBulk(ctx, load.NewTarget(addr, contestant.ProxyName, pool), 1)
	if err != nil {
		return err
	}
	defer b.Close()
	fmt.Println("open")
	frames, err := b.Send(ctx, d)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	fmt.Println(frames)
	return nil
}
