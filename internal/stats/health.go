package stats

import (
	"sync"
	"sync/atomic"
	"time"
)

// Failure is how a relay failed.
type Failure struct {
	Time  time.Time
	Stage string
	Text  string // without anything of the request
}

// Outage is the time in which a relay was down.
type Outage struct {
	Duration time.Duration
	Failures int // of all stages
}

// health is whether a relay is up: it is from the beginning, and whenever it has
// responded since it was last found to be down.
type health struct {
	down atomic.Bool // so that responses of a relay that is up need no lock

	mu       sync.Mutex // protects what follows, and changes of down
	since    time.Time
	failures int
	last     *Failure // nil if there was none
}

// Fail takes down that the relay has failed, and, if down says so, that it is down.
func (u *Upstream) Fail(f Failure, down bool) {
	h := &u.health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = &f
	if down && !h.down.Swap(true) {
		h.since, h.failures = f.Time, 0
	}
	h.failures++
}

// Respond takes down that the relay has responded. If it was down until then, it
// returns the outage that is over.
func (u *Upstream) Respond() (over Outage, wasDown bool) {
	h := &u.health
	if !h.down.Load() {
		return Outage{}, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.down.Swap(false) {
		return Outage{}, false
	}
	return Outage{time.Since(h.since), h.failures}, true
}

// Up reports whether the relay is not known to be down.
func (u *Upstream) Up() bool { return !u.health.down.Load() }

// LastFailure returns the relay's last failure, or nil if there was none.
func (u *Upstream) LastFailure() *Failure {
	u.health.mu.Lock()
	defer u.health.mu.Unlock()
	return u.health.last
}
