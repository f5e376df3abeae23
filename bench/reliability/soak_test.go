package main

import (
	"math"
	"strings"
	"testing"
)

func TestGrowth(t *testing.T) {
	memory := heldFigures[0]
	line := func(slope float64) (all []soakSample) {
		for i := range 300 {
			all = append(all, soakSample{Memory: 100 + slope*float64(i) + 5*math.Sin(float64(i))})
		}
		return all
	}
	for _, test := range []struct {
		slope, want float64
		fault       bool
	}{{0, 0, false}, {0.1, 10, false}, {1, 99, true}, {-1, -99, false}} {
		all := line(test.slope)
		if got, _ := memory.growth(all); math.Abs(got-test.want) > 3 {
			t.Errorf("slope %v: it grows by %v, want %v", test.slope, got, test.want)
		}
		s := &soakResult{Samples: all}
		if faults := strings.Join(s.faults(), ""); (faults != "") != test.fault {
			t.Errorf("slope %v: %q", test.slope, faults)
		}
	}
	if got, _ := memory.growth(line(1)[:2]); got != 0 {
		t.Errorf("two samples grow by %v", got)
	}
}
