package load

import (
	"context"
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	for _, test := range []struct {
		pace     string
		tunnels  int
		duration time.Duration
		want     int
	}{
		{"1500", 300, 2 * time.Second, 3000},
		{"sdk", 80, 16 * time.Second, 160},
		{"burst", 50, 2 * time.Second, 100},
	} {
		pace, err := ParsePace(test.pace)
		if err != nil {
			t.Fatal(err)
		}
		sent, last := 0, time.Duration(0)
		perTunnel := make([]int, test.tunnels)
		for at, id := range newSchedule(pace, test.tunnels).until(test.duration) {
			if at < last || at >= test.duration {
				t.Fatalf("%s: %v after %v", pace, at, last)
			}
			last = at
			perTunnel[id]++
			sent++
		}
		if sent != test.want {
			t.Errorf("%s: %d messages, not %d", pace, sent, test.want)
		}
		for id, n := range perTunnel {
			if n != test.want/test.tunnels {
				t.Fatalf("%s: tunnel %d sends %d", pace, id, n)
			}
		}
	}
}

func TestParsePace(t *testing.T) {
	for _, bad := range []string{"", "0", "-5", "fast", "1000000"} {
		if _, err := ParsePace(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSleepUntil(t *testing.T) {
	due := now() + 300*time.Microsecond
	if err := sleepUntil(context.Background(), due); err != nil || now() < due {
		t.Errorf("woke %v early, %v", due-now(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := sleepUntil(ctx, now()+time.Hour); err == nil {
		t.Error("slept on")
	}
}
