// Package report turns the samples of a run into tables and a plot.
package report

import (
	"encoding/json"
	"os"
	"slices"
)

// Run is everything measured by one command, as it is kept in results.json.
type Run struct {
	Machine     string       `json:"machine"`
	Settings    string       `json:"settings"`
	Contestants []Contestant `json:"contestants"`
	Paces       []string     `json:"paces"`
	Samples     []Sample     `json:"samples"`
}

// Contestant names a contestant and what of it ran.
type Contestant struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Sample holds what was measured on one fresh process. One that posted or carried bulk
// has no count of tunnels.
type Sample struct {
	Contestant string             `json:"contestant"`
	Round      int                `json:"round"`
	Tunnels    int                `json:"tunnels,omitempty"`
	Verified   int                `json:"verified"` // messages, posts or frames, each byte compared
	Others     float64            `json:"others"`   // cores used by other programs
	Values     map[string]float64 `json:"values"`   // by Metric.Key
}

// ReadRun reads what Write has written.
func ReadRun(file string) (*Run, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var r Run
	return &r, json.Unmarshal(b, &r)
}

// Write writes the run as JSON.
func (r *Run) Write(file string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// stat sums up a metric over the rounds. Metrics of posts and bulk, for which
// tunnels are not counted, are the same for any count of these.
func (r *Run) stat(contestant string, tunnels int, key string) (Stat, bool) {
	var values []float64
	for _, s := range r.Samples {
		if v, ok := s.Values[key]; ok && s.Contestant == contestant && (s.Tunnels == 0 || s.Tunnels == tunnels) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return Stat{}, false
	}
	return newStat(values), true
}

// ratio is the contestant's median divided by that of a peer, or of the best
// of the peers.
func (r *Run) ratio(contestant, peer string, tunnels int, m Metric) (float64, bool) {
	ours, ok := r.stat(contestant, tunnels, m.Key)
	if !ok {
		return 0, false
	}
	if peer == Best {
		peer = r.best(contestant, tunnels, m)
	}
	theirs, ok := r.stat(peer, tunnels, m.Key)
	return ours.Median / theirs.Median, ok && theirs.Median > 0
}

// best names the best of the contestant's peers.
func (r *Run) best(contestant string, tunnels int, m Metric) string {
	var best string
	var record float64
	for _, c := range r.Contestants {
		s, ok := r.stat(c.Name, tunnels, m.Key)
		if ok && c.Name != contestant && (best == "" || (s.Median > record) == m.More) {
			best, record = c.Name, s.Median
		}
	}
	return best
}

// tunnelCounts are the counts that were measured, in the order of measuring.
func (r *Run) tunnelCounts() []int {
	var counts []int
	for _, s := range r.Samples {
		if s.Tunnels > 0 && !slices.Contains(counts, s.Tunnels) {
			counts = append(counts, s.Tunnels)
		}
	}
	return counts
}
