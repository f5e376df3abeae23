package watchrtcproxy

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

// TestFaultLines: one warning when a relay goes down and one line when it is back,
// with counts between, and not more when it goes and comes all the time.
func TestFaultLines(t *testing.T) {
	synctest.Test(t, testFaultLines)
}

func testFaultLines(t *testing.T) {
	core, lines := observer.New(zap.InfoLevel)
	log := zap.New(core)
	faults := newFaultLog(func() *zap.Logger { return log })
	const upstream = "wss://faults.test"
	refused := fault{upstream: upstream, stage: relay.StageConnect, text: "nobody listens", down: true}
	busy := fault{upstream: upstream, stage: relay.StageStatus, text: "busy"}
	want := func(what string, failed, back int) {
		t.Helper()
		for message, n := range map[string]int{"relay failed": failed, "relay is back": back} {
			if got := lines.FilterMessage(message); got.Len() != n {
				t.Errorf("%s: %d lines %q, want %d: %v", what, got.Len(), message, n, got.All())
			}
		}
	}
	up := totals.Upstream(upstream)
	faults.add(busy)
	if !up.Up() {
		t.Error("a relay that responds is down")
	}
	want("busy", 1, 0)
	for range 1000 {
		faults.add(refused)
	}
	want("down", 2, 0)
	time.Sleep(faultInterval)
	synctest.Wait()
	want("counted", 3, 0)
	last := lines.All()[lines.Len()-1].ContextMap()
	if last["count"] != int64(999) || last["up"] != false || last["upstream"] != upstream {
		t.Error(last)
	}
	faults.responded(up)
	faults.responded(up)
	want("back", 3, 1)
	last = lines.All()[lines.Len()-1].ContextMap()
	if last["down_for"] != faultInterval || last["failures"] != int64(1000) || last["upstream"] != upstream {
		t.Error(last)
	}

	for range 100 { // once a second, which is ten times in an interval
		faults.add(refused)
		faults.responded(up)
		time.Sleep(time.Second)
		synctest.Wait() // or a summary could fall between the two
	}
	want("flapping", 13, 1)
	time.Sleep(3 * faultInterval)
	synctest.Wait()
	if len(faults.counts) > 0 || len(faults.down) > 0 {
		t.Errorf("%d counts and %d relays are kept", len(faults.counts), len(faults.down))
	}
	if last := up.LastFailure(); last == nil || last.Stage != "connect" || last.Text != "nobody listens" {
		t.Errorf("the last failure is %+v", last)
	}
}

// TestServedFaults: what failed where the relay was reached is logged, and counts as no
// failure.
func TestServedFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zap.InfoLevel)
		log := zap.New(core)
		faults := newFaultLog(func() *zap.Logger { return log })
		const upstream = "wss://served.faults.test"
		for range 1000 {
			faults.add(fault{upstream: upstream, stage: relay.StageConnect, text: "an address is dead", served: true})
		}
		time.Sleep(3 * faultInterval)
		synctest.Wait()
		all := lines.All()
		if len(all) != 2 || all[1].Message != "relay reached in spite of a failure" || all[1].ContextMap()["count"] != int64(999) {
			t.Errorf("lines %v", all)
		}
		if up := totals.Upstream(upstream); !up.Up() || up.LastFailure() != nil {
			t.Errorf("the relay is up: %t, last failure %+v", up.Up(), up.LastFailure())
		}
	})
}
