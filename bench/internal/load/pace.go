package load

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Pace says how often messages are sent.
type Pace struct {
	name   string
	rate   int           // messages a second over all tunnels, or
	period time.Duration // of each tunnel
	burst  bool          // all tunnels at once, each period
}

// sdkPeriod is the interval at which the SDK sends its statistics.
const sdkPeriod = 8 * time.Second

// ParsePace reads a number of messages a second over all tunnels, "sdk" for
// the SDK's own cadence, or "burst" for all tunnels at once, once a second.
func ParsePace(s string) (Pace, error) {
	switch s {
	case "sdk":
		return Pace{name: s, period: sdkPeriod}, nil
	case "burst":
		return Pace{name: s, period: time.Second, burst: true}, nil
	}
	rate, err := strconv.Atoi(s)
	if err != nil || rate < 1 || rate > maxRate {
		return Pace{}, fmt.Errorf("rate %q is not sdk, burst or a number from 1 to %d", s, maxRate)
	}
	return Pace{name: s, rate: rate}, nil
}

// maxRate is about what one sender can do.
const maxRate = 20000

func (p Pace) String() string {
	if p.rate == 0 {
		return p.name
	}
	return p.name + "/s"
}

// schedule is when each tunnel sends within a period. Clients know nothing of
// each other, so each has a phase of its own; the same for every contestant.
type schedule struct {
	period time.Duration
	slots  []slot
}

type slot struct {
	at time.Duration
	id int
}

func newSchedule(p Pace, tunnels int) schedule {
	s := schedule{p.period, make([]slot, tunnels)}
	if p.rate > 0 {
		s.period = time.Duration(tunnels) * time.Second / time.Duration(p.rate)
	}
	rng := rand.New(rand.NewPCG(1, uint64(tunnels)))
	for i := range s.slots {
		s.slots[i].id = i
		if !p.burst {
			s.slots[i].at = time.Duration(rng.Int64N(int64(s.period)))
		}
	}
	slices.SortStableFunc(s.slots, func(a, b slot) int { return int(a.at - b.at) })
	return s
}

// count is about how many messages are sent in d.
func (s schedule) count(d time.Duration) int {
	return int(d/s.period+1) * len(s.slots)
}

// until yields when each message is due, and on which tunnel, in order.
func (s schedule) until(d time.Duration) iter.Seq2[time.Duration, int] {
	return func(yield func(time.Duration, int) bool) {
		for cycle := time.Duration(0); ; cycle += s.period {
			for _, slot := range s.slots {
				if cycle+slot.at >= d || !yield(cycle+slot.at, slot.id) {
					return
				}
			}
		}
	}
}

// sleepUntil sleeps in the kernel because the Go runtime rounds sleeps up to a
// millisecond, which would turn a steady stream of messages into volleys.
func sleepUntil(ctx context.Context, at time.Duration) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		wait := min(at-now(), 100*time.Millisecond)
		if wait <= 0 {
			return nil
		}
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		// Cut short by a signal, it is simply called again.
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil)
	}
}

// Sleep waits for d, or until ctx ends. Nothing depends on how exactly.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
