package stats

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// counters counts by keys that are all known beforehand.
type counters[K comparable] map[K]*atomic.Uint64

func newCounters[K comparable](keys []K) counters[K] {
	c := make(counters[K], len(keys))
	for _, key := range keys {
		c[key] = new(atomic.Uint64)
	}
	return c
}

// add ignores keys that are not known.
func (c counters[K]) add(key K) {
	if n := c[key]; n != nil {
		n.Add(1)
	}
}

func (c counters[K]) load() map[K]uint64 {
	counts := make(map[K]uint64, len(c))
	for key, n := range c {
		counts[key] = n.Load()
	}
	return counts
}

// The buckets' upper bounds, in seconds.
var (
	// responseBuckets: from a relay next door to the 15 s after which the SDK gives up.
	responseBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15}
	// lifetimeBuckets: from a connection that does not hold to a page left open for a
	// day.
	lifetimeBuckets = []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600}
)

// Distribution is how durations are spread.
type Distribution struct {
	Count   uint64
	Sum     float64            // seconds
	Buckets map[float64]uint64 // how many were at most so many seconds
}

type histogram struct {
	bounds []float64 // seconds, ascending

	mu     sync.Mutex // protects what follows
	counts []uint64   // by bound, and above the last
	sum    float64
}

func newHistogram(bounds []float64) histogram {
	return histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	seconds := d.Seconds()
	i, _ := slices.BinarySearch(h.bounds, seconds)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[i]++
	h.sum += seconds
}

func (h *histogram) load() Distribution {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := Distribution{Sum: h.sum, Buckets: make(map[float64]uint64, len(h.bounds))}
	for i, n := range h.counts {
		d.Count += n
		if i < len(h.bounds) {
			d.Buckets[h.bounds[i]] = d.Count
		}
	}
	return d
}
