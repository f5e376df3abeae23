//go:build race

package tunnel

// raceEnabled: sync.Pool then forgets things at random, so allocations cannot be
// counted.
const raceEnabled = true
