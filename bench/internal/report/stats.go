package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Percentile returns the smallest duration that at least the fraction q of
// them do not exceed. It sorts them.
func Percentile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	rank := int(math.Ceil(q * float64(len(ds))))
	return ds[max(rank, 1)-1]
}

// Stat sums up one value over the rounds.
type Stat struct {
	Median, Min, Max float64
}

func newStat(values []float64) Stat {
	s := slices.Sorted(slices.Values(values))
	middle := len(s) / 2
	median := s[middle]
	if len(s)%2 == 0 {
		median = (s[middle-1] + s[middle]) / 2
	}
	return Stat{median, s[0], s[len(s)-1]}
}

// String shows the median, and the spread where there is one.
func (s Stat) String() string {
	median, low, high := format(s.Median), format(s.Min), format(s.Max)
	if low == high {
		return median
	}
	return fmt.Sprintf("%s (%s–%s)", median, low, high)
}

// format shows three significant digits, and no fraction of hundreds.
func format(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return thousands(int(math.Round(v)))
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, digit := range s {
		if left := len(s) - i; i > 0 && left%3 == 0 && s[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}
