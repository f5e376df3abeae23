package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/report"
)

// sumUp takes the counts down once all is over.
func (s *soak) sumUp(took time.Duration) {
	s.Seconds = took.Seconds()
	s.Messages, s.Opened, s.Retried = s.messages.Load(), s.opened.Load(), s.retried.Load()
	s.Reloads, s.Handshakes = s.reloads.Load(), s.dropped.Load()
	s.Ends = s.tally.results()
}

// held is what a proxy holds that must not grow.
type held struct {
	title, unit string
	value       func(soakSample) float64
	grace       float64 // by how much it may grow whatever it is: a heap breathes
}

var heldFigures = []held{
	{"Memory", "MiB", func(s soakSample) float64 { return s.Memory }, 24},
	{"Goroutines", "", func(s soakSample) float64 { return s.Goroutines }, 100},
	{"Descriptors", "", func(s soakSample) float64 { return s.Descriptors }, 200},
	{"Failed handshakes", "since the start", func(s soakSample) float64 { return s.Failures }, 1e9},
}

// mostGrowth is by which part of its mean a figure may grow over the last third of a run.
const mostGrowth = 0.05

// growth is by how much a figure grows over the last third, by the line that fits best
// (least squares), and the mean.
func (h held) growth(all []soakSample) (growth, mean float64) {
	last := all[len(all)-len(all)/3:]
	n := float64(len(last))
	var sx, sy, sxx, sxy float64
	for i, sample := range last {
		x, y := float64(i), h.value(sample)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	if n < 3 {
		return 0, 0
	}
	slope := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	return slope * (n - 1), sy / n
}

// faults says what a proxy promises and did not keep.
func (s *soakResult) faults() (faults []string) {
	if s.Served < s.Quiet {
		faults = append(faults, fmt.Sprintf("%d of %d quiet tunnels were served; the worst took %s ms, without a proxy %s", s.Served, s.Quiet, number(s.Worst), number(s.Floor)))
	}
	for _, end := range s.Ends {
		if end.fault() != "" {
			faults = append(faults, fmt.Sprintf("%s by the %s: %s", end.Way, end.By, end.fault()))
		}
	}
	for _, h := range heldFigures {
		if growth, mean := h.growth(s.Samples); growth > max(mostGrowth*mean, h.grace) {
			faults = append(faults, fmt.Sprintf("%s grew by %s in the last third, over a mean of %s", strings.ToLower(h.title), number(growth), number(mean)))
		}
	}
	return faults
}

func (s *soakResult) ended() (sum lossResult) {
	for _, end := range s.Ends {
		sum = sum.plus(end)
	}
	return sum
}

func (r *results) writeSoak(b *strings.Builder) {
	fmt.Fprintf(b, "### Soak\n\nAll at once. Growth: over the last third, by the line that fits best; at most %.0f %% of the mean, or %.0f MiB, %.0f goroutines, %.0f descriptors.\n\n",
		mostGrowth*100, heldFigures[0].grace, heldFigures[1].grace, heldFigures[2].grace)
	writeHeader(b, "", "minutes", "messages", "opened", "ended", "lost", "dropped", "reloads", "tried again", "worst, ms", "direct", "memory", "goroutines", "descriptors", "")
	for _, s := range r.Soak {
		cells := []string{s.Contestant, number(s.Seconds / 60)}
		ended := s.ended()
		for _, n := range []int64{s.Messages, s.Opened, int64(ended.Tunnels)} {
			cells = append(cells, fmt.Sprint(n))
		}
		cells = append(cells, bytesText(float64(ended.Lost)), fmt.Sprint(s.Handshakes), fmt.Sprint(s.Reloads), fmt.Sprint(s.Retried), number(s.Worst), number(s.Floor))
		for _, h := range heldFigures[:3] {
			growth, mean := h.growth(s.Samples)
			cells = append(cells, fmt.Sprintf("%s (%+.1f)", number(mean), growth))
		}
		writeRow(b, append(cells, mark(strings.Join(s.faults(), "")))...)
	}
	b.WriteByte('\n')
}

// plot draws what the proxy held over time.
func (s *soakResult) plot(machine string) string {
	var panels []report.Panel
	for _, h := range heldFigures {
		panel := report.Panel{Title: h.title, Unit: h.unit}
		for _, sample := range s.Samples {
			panel.Values = append(panel.Values, h.value(sample))
		}
		panels = append(panels, panel)
	}
	return report.Lines(fmt.Sprintf("%s minutes of everything at once", number(s.Seconds/60)), panels,
		fmt.Sprintf("%d messages, %d WebSockets, %d reloads.", s.Messages, s.Opened+int64(s.ended().Tunnels), s.Reloads), machine+".")
}
