package limits

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

func TestTake(t *testing.T) {
	var s Slots
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	take := func(client netip.Addr, limits Limits, want error) *Slot {
		t.Helper()
		slot, err := s.Take(client, limits)
		if !errors.Is(err, want) || (slot == nil) != (want != nil) {
			t.Fatalf("%v, %v, want %v", slot, err, want)
		}
		return slot
	}
	first := take(one, Limits{PerClient: 1}, nil)
	take(one, Limits{PerClient: 1}, ErrClient)
	take(one, Limits{Total: 1, PerClient: 1}, ErrClient) // it comes before the total
	take(one, Limits{PerClient: 2}, nil)
	take(other, Limits{Total: 2}, ErrTotal)
	take(other, Limits{Total: 3, PerClient: 1}, nil)
	take(netip.Addr{}, Limits{Total: 3, PerClient: 1}, ErrTotal)
	for range 3 { // what has no address has no limit of its own
		take(netip.Addr{}, Limits{Total: 6, PerClient: 1}, nil)
	}
	if s.Held() != 6 || s.Clients() != 2 {
		t.Errorf("%d held by %d clients, want 6 by 2", s.Held(), s.Clients())
	}
	for range 3 {
		first.Free()
	}
	if s.Held() != 5 {
		t.Errorf("%d held after one was given back three times, want 5", s.Held())
	}
	take(one, Limits{PerClient: 2}, nil)
	(*Slot)(nil).Free()
}

func TestClients(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%a", "fe80::2%b", true},
		{"::", "0.0.0.0", false},
	} {
		var s Slots
		for _, addr := range []string{test.a, test.b} {
			if _, err := s.Take(netip.MustParseAddr(addr), Limits{}); err != nil {
				t.Fatal(err)
			}
		}
		if same := s.Clients() == 1; same != test.same {
			t.Errorf("%s and %s are one client: %t, want %t", test.a, test.b, same, test.same)
		}
	}
}

// TestSlotsUnderLoad takes and frees from many goroutines, each slot from two at once,
// and looks whether a limit is ever passed, or anything left.
func TestSlotsUnderLoad(t *testing.T) {
	const total, perClient, clients, rounds = 40, 12, 5, 400
	var s Slots
	var held [clients]atomic.Int64
	var all, refused atomic.Int64
	var wg sync.WaitGroup
	for worker := range 16 {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		wg.Go(func() {
			for range rounds {
				i := random.IntN(clients)
				slot, err := s.Take(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), Limits{Total: total, PerClient: perClient})
				if err != nil {
					refused.Add(1)
					continue
				}
				if n := held[i].Add(1); n > perClient {
					t.Errorf("a client has %d", n)
				}
				if n := all.Add(1); n > total || s.Held() > total || s.Held() < 0 {
					t.Errorf("there are %d, %d counted", n, s.Held())
				}
				for range random.IntN(3) { // others come while this is held
					s.Held()
				}
				all.Add(-1)
				held[i].Add(-1)
				wg.Go(slot.Free)
				slot.Free()
			}
		})
	}
	wg.Wait()
	if s.Held() != 0 || s.Clients() != 0 {
		t.Errorf("%d held by %d clients when all is over", s.Held(), s.Clients())
	}
	t.Logf("%d of %d refused", refused.Load(), 16*rounds)
}

func TestDefaultTotal(t *testing.T) {
	for files, want := range map[int]int{
		0: 0, 256: 64, 1024: 256, 2000: 500, 4096: 1548, 1 << 20: 523_788,
	} {
		if got := DefaultTotal(files); got != want {
			t.Errorf("%d files: %d, want %d", files, got, want)
		}
	}
	if files := OpenFiles(); files < 0 {
		t.Errorf("%d open files", files)
	}
}
