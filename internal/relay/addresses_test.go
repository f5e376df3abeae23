package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// addrsOf reads addresses that are separated by spaces.
func addrsOf(text string) (addrs []netip.Addr) {
	for _, word := range strings.Fields(text) {
		addrs = append(addrs, netip.MustParseAddr(word))
	}
	return addrs
}

func textOf(addrs []netip.Addr) string { return strings.Trim(fmt.Sprint(addrs), "[]") }

// TestOrder has the families alternate, and what failed come last.
func TestOrder(t *testing.T) {
	for _, test := range []struct{ answer, failed, want string }{
		{"10.0.0.1", "", "10.0.0.1"},
		{"10.0.0.1", "10.0.0.1", "10.0.0.1"},
		{"10.0.0.1 10.0.0.2 10.0.0.3", "", "10.0.0.1 10.0.0.2 10.0.0.3"},
		{"::1 ::2 10.0.0.1 10.0.0.2", "", "::1 10.0.0.1 ::2 10.0.0.2"},
		{"10.0.0.1 10.0.0.2 ::1 ::2", "", "10.0.0.1 ::1 10.0.0.2 ::2"},
		{"::1 ::2 ::3 10.0.0.1", "", "::1 10.0.0.1 ::2 ::3"},
		{"::1 10.0.0.1 10.0.0.2 10.0.0.3", "", "::1 10.0.0.1 10.0.0.2 10.0.0.3"},
		{"10.0.0.1 10.0.0.2 10.0.0.3", "10.0.0.1", "10.0.0.2 10.0.0.3 10.0.0.1"},
		{"10.0.0.1 10.0.0.2 10.0.0.3", "10.0.0.2 10.0.0.1", "10.0.0.3 10.0.0.1 10.0.0.2"},
		{"10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2", "10.0.0.1 10.0.0.2"},
		{"::1 ::2 10.0.0.1 10.0.0.2 10.0.0.3", "::1 10.0.0.1", "::2 10.0.0.2 10.0.0.3 ::1 10.0.0.1"},
		{"10.0.0.1 10.0.0.2", "10.0.0.9", "10.0.0.1 10.0.0.2"},
	} {
		var n name
		for _, addr := range addrsOf(test.failed) {
			n.noteFailed(addr)
		}
		if got := textOf(n.order(addrsOf(test.answer), time.Hour)); got != test.want {
			t.Errorf("%s, failed %q: %s, want %s", test.answer, test.failed, got, test.want)
		}
	}
}

// TestFailDuration has failed addresses come back to their place when their time is
// over, or when they work.
func TestFailDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answer = "10.0.0.1 10.0.0.2 10.0.0.3"
		addrs := addrsOf(answer)
		var n name
		want := func(want string, within time.Duration) {
			t.Helper()
			if got := textOf(n.order(addrs, within)); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
		n.noteFailed(addrs[0])
		want(answer, 0)
		time.Sleep(4 * time.Second)
		n.noteFailed(addrs[1])
		want("10.0.0.3 10.0.0.1 10.0.0.2", 10*time.Second)
		time.Sleep(6*time.Second - 1)
		want("10.0.0.3 10.0.0.1 10.0.0.2", 10*time.Second)
		time.Sleep(time.Nanosecond)
		want("10.0.0.1 10.0.0.3 10.0.0.2", 10*time.Second)
		n.noteWorks(addrs[1])
		want(answer, 10*time.Second)
	})
}

// TestMemoryIsBounded has more of everything than is remembered.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := nameMemory{known: make(map[nameKey]*name)}
		first := memory.get(nameKey{address: "first:443"})
		for i := range maxNames + 100 {
			time.Sleep(time.Nanosecond)
			memory.get(nameKey{address: fmt.Sprint(i)})
			if memory.get(nameKey{address: "first:443"}) != first {
				t.Fatal("what is in use was forgotten")
			}
		}
		if len(memory.known) != maxNames {
			t.Errorf("%d names are known", len(memory.known))
		}

		addr := netip.MustParseAddr("10.0.0.1")
		var many []netip.Addr
		for range maxFailed + 100 {
			time.Sleep(time.Nanosecond)
			first.noteFailed(addr)
			many = append(many, addr)
			addr = addr.Next()
		}
		if len(first.failed) != maxFailed {
			t.Errorf("%d failures are known", len(first.failed))
		}
		if _, ok := first.failed[many[len(many)-1]]; !ok {
			t.Error("the last failure is not known")
		}
		if n := len(first.order(many, time.Hour)); n != maxAddresses {
			t.Errorf("%d addresses would be tried", n)
		}
	})
}

// TestResolve has a name server that is right, wrong, slow and silent.
func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n name
		var asked atomic.Int64
		// after is a lookup that takes so long.
		after := func(d time.Duration, answer string, err error) func() ([]netip.Addr, error) {
			return func() ([]netip.Addr, error) {
				asked.Add(1)
				time.Sleep(d)
				return addrsOf(answer), err
			}
		}
		want := func(took time.Duration, answer string, failure error, look func() ([]netip.Addr, error)) {
			t.Helper()
			begun := time.Now()
			addrs, err := n.resolve(t.Context(), look)
			if textOf(addrs) != answer || err != failure || time.Since(begun) != took {
				t.Errorf("%s (%v) after %s, want %s (%v) after %s", textOf(addrs), err, time.Since(begun), answer, failure, took)
			}
		}
		broken := errors.New("broken")
		want(2*time.Second, "", broken, after(2*time.Second, "", broken))
		want(2*time.Second, "10.0.0.1", nil, after(2*time.Second, "10.0.0.1", nil))
		want(0, "10.0.0.2", nil, after(0, "10.0.0.2", nil))
		want(time.Millisecond, "10.0.0.2", broken, after(time.Millisecond, "", broken))

		// A slow answer serves the next time, and nobody waits for it twice.
		slow := after(2500*time.Millisecond, "10.0.0.3", nil)
		want(time.Second, "10.0.0.2", errLookupSlow, slow)
		before := asked.Load()
		want(0, "10.0.0.2", errLookupSlow, slow)
		time.Sleep(time.Second)
		want(0, "10.0.0.2", errLookupSlow, slow)
		if asked.Load() != before {
			t.Error("the server was asked again before it had responded")
		}
		time.Sleep(time.Second)
		want(time.Second/2, "10.0.0.4", nil, after(time.Second/2, "10.0.0.4", nil))

		// Who gives up does not wait.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/4)
		defer cancel()
		if _, err := n.resolve(ctx, after(time.Minute, "", broken)); err != context.DeadlineExceeded {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}

// TestReachable has what local_address allows.
func TestReachable(t *testing.T) {
	both := addrsOf("10.0.0.1 ::1")
	for local, want := range map[string]string{
		"": "10.0.0.1 ::1", "127.0.0.1": "10.0.0.1", "127.0.0.1:0": "10.0.0.1", "::1": "::1", "[::1]": "::1", "tcp4/127.0.0.1": "10.0.0.1",
		"0.0.0.0": "10.0.0.1 ::1", "::": "10.0.0.1 ::1", "localhost": "10.0.0.1 ::1", "unix//run/s": "10.0.0.1 ::1",
	} {
		reachable := reachableFrom(local)
		got := slices.DeleteFunc(slices.Clone(both), func(addr netip.Addr) bool { return !reachable(addr) })
		if textOf(got) != want {
			t.Errorf("%q: %s, want %s", local, textOf(got), want)
		}
	}
}
