package check

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"
)

// Status is how a step went.
type Status string

// The statuses. What could not be tested has not failed.
const (
	OK        Status = "ok"
	Failed    Status = "failed"
	NotTested Status = "not tested"
)

// Step is what one step has found.
type Step struct {
	Name   string
	Status Status
	Took   time.Duration // 0 where nothing was done
	Detail string        // what was seen
	Hint   string        // what to do; empty if there is nothing

	mistake string // of a step that failed, in a few words
}

// MarshalJSON writes the time in milliseconds, to a tenth.
func (s Step) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name   string  `json:"name"`
		Status Status  `json:"status"`
		MS     float64 `json:"ms"`
		Detail string  `json:"detail"`
		Hint   string  `json:"hint"`
	}{s.Name, s.Status, math.Round(float64(s.Took)/float64(time.Millisecond)*10) / 10, s.Detail, s.Hint})
}

// Report is a check's result.
type Report struct {
	URL   string
	Steps []Step
}

// OK reports that no step has failed. Some may not have been tested.
func (r Report) OK() bool { return r.first(Failed) == nil }

// MarshalJSON writes the report as `watchrtc-check --json` does.
func (r Report) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		URL   string `json:"url"`
		OK    bool   `json:"ok"`
		Steps []Step `json:"steps"`
	}{r.URL, r.OK(), r.Steps})
}

// Took returns how long a step took, 0 if it was not run.
func (r Report) Took(name string) time.Duration {
	for _, step := range r.Steps {
		if step.Name == name && step.Status == OK {
			return step.Took
		}
	}
	return 0
}

// Verdict says in one line how it is.
func (r Report) Verdict() string {
	if step := r.first(Failed); step != nil {
		return step.mistake
	}
	var untested []string
	for _, step := range r.Steps {
		if step.Status == NotTested && !slices.Contains(untested, step.Name) {
			untested = append(untested, step.Name)
		}
	}
	if len(untested) > 0 {
		return "well as far as tested; not tested: " + strings.Join(untested, ", ")
	}
	return "all well"
}

// ToDo returns the hints, each once.
func (r Report) ToDo() (hints []string) {
	for _, step := range r.Steps {
		if step.Hint != "" && !slices.Contains(hints, step.Hint) {
			hints = append(hints, step.Hint)
		}
	}
	return hints
}

func (r Report) first(status Status) *Step {
	for i := range r.Steps {
		if r.Steps[i].Status == status {
			return &r.Steps[i]
		}
	}
	return nil
}
