package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
)

// results is everything that was measured, as -json writes it.
type results struct {
	Machine  string            `json:"machine"`
	Versions map[string]string `json:"versions"`
	Seed     uint64            `json:"seed"`
	Limits   limits            `json:"limits"`
	Fairness []fairnessResult  `json:"fairness,omitempty"`
	Memory   []memoryResult    `json:"memory,omitempty"`
	Loss     []lossResult      `json:"loss,omitempty"`
	Attacks  []attackResult    `json:"attacks,omitempty"`
	Soak     []soakResult      `json:"soak,omitempty"`
}

// limits are what ours may not exceed.
type limits struct {
	WorstTrip float64 `json:"worst_round_trip_ms"`
	Growth    int64   `json:"growth_bytes"`
	Each      float64 `json:"growth_bytes_each"`
	Partial   float64 `json:"growth_bytes_partial_record"`
	Buffered  float64 `json:"growth_bytes_buffered_record"`
}

func (s size) limits() limits {
	return limits{s.worstTrip.Seconds() * 1e3, s.growth, s.each, s.partial, s.buffered}
}

func isOurs(name string) bool {
	return name == contestant.Ours || name == contestant.OursGoroutines.Name
}

// verdict returns an error that names each promise that ours does not keep.
func (r *results) verdict() error {
	var errs []error
	for _, f := range r.Fairness {
		if isOurs(f.Contestant) && f.fault(r.Limits) != "" {
			errs = append(errs, fmt.Errorf("%s, %d quiet: %s", f.Contestant, f.Quiet, f.fault(r.Limits)))
		}
	}
	for _, m := range r.Memory {
		if isOurs(m.Contestant) && m.fault(r.Limits) != "" {
			errs = append(errs, fmt.Errorf("%s, %s: %s", m.Contestant, m.Attack, m.fault(r.Limits)))
		}
	}
	for _, l := range r.Loss {
		if isOurs(l.Contestant) && l.fault() != "" {
			errs = append(errs, fmt.Errorf("%s, %s by the %s, relay over %s: %s", l.Contestant, l.Way, l.By, l.leg(), l.fault()))
		}
	}
	for _, a := range r.Attacks {
		if a.fault() != "" {
			errs = append(errs, fmt.Errorf("%s, the %s %s: %s", a.Contestant, a.By, a.Attack, a.fault()))
		}
	}
	for _, s := range r.Soak {
		for _, fault := range s.faults() {
			errs = append(errs, fmt.Errorf("%s, soak: %s", s.Contestant, fault))
		}
	}
	return errors.Join(errs...)
}

func (f fairnessResult) fault(l limits) string {
	switch {
	case f.Worst > l.WorstTrip && f.Quiet == 1:
		return fmt.Sprintf("a round trip took %s ms, more than %s", number(f.Worst), number(l.WorstTrip))
	case f.Served < f.Quiet:
		return fmt.Sprintf("%d of %d tunnels were served", f.Served, f.Quiet)
	}
	return ""
}

// grown is the growth that is judged: under a flood the peak, otherwise what is left,
// divided by the count where there is one. A Go program may reuse the room of garbage
// from before the attack, so its live heap counts instead if that has grown more.
func (m memoryResult) grown() float64 {
	grown := m.After
	if m.Attack == keyUpdates {
		grown = m.Peak
	}
	if m.Heap != nil {
		grown = max(grown, *m.Heap)
	}
	return float64(grown) / float64(max(m.Count, 1))
}

func (m memoryResult) fault(l limits) string {
	limit := m.limit(l)
	if m.grown() <= limit {
		return ""
	}
	return fmt.Sprintf("%s more, over %s", bytesText(m.grown()), bytesText(limit))
}

func (m memoryResult) limit(l limits) float64 {
	goroutines := m.Contestant == contestant.OursGoroutines.Name
	switch {
	case m.Count == 0:
		return float64(l.Growth)
	case m.Attack == recordHeader && goroutines:
		return l.Buffered
	case m.Attack == recordHeader || m.Attack == oneByte:
		return l.Partial
	}
	return l.Each
}

func (r *results) markdown() string {
	var b strings.Builder
	if len(r.Fairness) > 0 {
		r.writeFairness(&b)
	}
	if len(r.Memory) > 0 {
		r.writeMemory(&b)
	}
	if len(r.Loss) > 0 {
		r.writeLoss(&b)
	}
	if len(r.Attacks) > 0 {
		r.writeAttacks(&b)
	}
	if len(r.Soak) > 0 {
		r.writeSoak(&b)
	}
	var versions []string
	for name, version := range r.Versions {
		versions = append(versions, name+": "+version)
	}
	slices.Sort(versions)
	fmt.Fprintf(&b, "%s; %s. Seed %d.\n", r.Machine, strings.Join(versions, "; "), r.Seed)
	return b.String()
}

func writeRow(b *strings.Builder, cells ...string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

func writeHeader(b *strings.Builder, cells ...string) {
	writeRow(b, cells...)
	writeRow(b, append([]string{"---"}, slices.Repeat([]string{"---:"}, len(cells)-1)...)...)
}

func (r *results) writeFairness(b *strings.Builder) {
	fmt.Fprintf(b, "### Fairness\n\nRound trips in ms of quiet tunnels beside %d that send as fast as they can. Served: each reply came within %v. "+
		"Direct: from the same process to the same relay, without a proxy.\n\n", fastSenders, prompt)
	writeHeader(b, "", "quiet tunnels", "served", "p99", "worst", "direct p99", "direct worst", "fast ones, MB/s", "")
	for _, f := range r.Fairness {
		writeRow(b, f.Contestant, fmt.Sprint(f.Quiet), fmt.Sprint(f.Served), number(f.P99), number(f.Worst),
			number(f.FloorP99), number(f.FloorWorst), number(f.Fast), mark(f.fault(r.Limits)))
	}
	b.WriteByte('\n')
}

func (r *results) writeMemory(b *strings.Builder) {
	fmt.Fprintf(b, "### Memory\n\nGrowth of the proxy's memory over what it had before, or had with as many idle tunnels or connections. Limit: %s; each %s.\n\n",
		bytesText(float64(r.Limits.Growth)), bytesText(r.Limits.Each))
	writeHeader(b, "", "attack", "peak", "afterwards", "each", "live heap", "")
	for _, m := range r.Memory {
		attack, each, heap := m.Attack, "", ""
		if m.Sent > 0 {
			attack += fmt.Sprintf(" (%s taken)", bytesText(float64(m.Sent)))
		}
		if m.Count > 0 {
			each = bytesText(m.grown())
		}
		if m.Heap != nil {
			heap = bytesText(float64(*m.Heap))
		}
		writeRow(b, m.Contestant, attack, bytesText(float64(m.Peak)), bytesText(float64(m.After)), each, heap, mark(m.fault(r.Limits)))
	}
	b.WriteByte('\n')
}

func mark(fault string) string {
	if fault == "" {
		return "✓"
	}
	return "✗"
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// bytesText shows bytes in the unit that suits them.
func bytesText(v float64) string {
	switch {
	case v >= 1<<20 || v <= -1<<20:
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	case v >= 1<<10 || v <= -1<<10:
		return fmt.Sprintf("%.1f KiB", v/(1<<10))
	}
	return fmt.Sprintf("%.0f B", v)
}
