package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// host is how an address behaves.
type host struct {
	connects time.Duration // after so long; forever if negative
	refuses  bool          // then
	tls      time.Duration // after so long more; forever if negative
	distrust bool          // then
}

const (
	ms      = time.Millisecond
	forever = -time.Second
)

var (
	dead    = host{connects: forever}
	refused = host{refuses: true}
	good    = host{}
	foreign = host{distrust: true}
	stopped = host{tls: forever} // a process that accepts and says nothing
)

// course is a race between hosts, and what came of it.
type course struct {
	hosts   []host
	name    name
	delay   time.Duration
	mu      sync.Mutex // protects what follows
	trying  []context.Context
	most    int          // at once
	tried   []string     // the last byte of each address and when it was tried
	open    atomic.Int64 // connections
	begun   time.Time
	served  string // what failed where another address served
	ignores bool   // hosts connect also when nobody waits any more
}

func (c *course) addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

func (c *course) run(ctx context.Context) (winner string, took time.Duration, err error) {
	var addrs []netip.Addr
	for i := range c.hosts {
		addrs = append(addrs, c.addr(i))
	}
	r := &race{name: &c.name, addrs: c.name.order(addrs, 10*time.Second), delay: c.delay, served: c.note, attempt: c.attempt}
	c.begun, c.tried, c.trying = time.Now(), nil, nil
	conn, err := r.run(ctx)
	took = time.Since(c.begun)
	if err == nil {
		winner = conn.(*courseConn).winner
	}
	return winner, took, err
}

func (c *course) note(stage Stage, text string) { c.served = fmt.Sprintf("%s: %s", stage, text) }

func (c *course) attempt(ctx context.Context, addr netip.Addr, connected func()) (net.Conn, error) {
	i := addr.As4()[3]
	h := c.hosts[i]
	c.mu.Lock()
	c.tried = append(c.tried, fmt.Sprintf("%d@%d", i, time.Since(c.begun)/ms))
	c.trying = append(slices.DeleteFunc(c.trying, func(ctx context.Context) bool { return ctx.Err() != nil }), ctx)
	c.most = max(c.most, len(c.trying))
	c.mu.Unlock()
	if err := c.wait(ctx, h.connects); err != nil {
		return nil, &dialError{StageConnect, err}
	}
	if h.refuses {
		return nil, &dialError{StageConnect, fmt.Errorf("dial tcp %s:443: refused", addr)}
	}
	connected()
	if err := c.wait(ctx, h.tls); err != nil {
		return nil, &dialError{StageTLS, err}
	}
	if h.distrust {
		return nil, &dialError{StageTLS, errors.New("tls: distrusted")}
	}
	c.open.Add(1)
	return &courseConn{winner: fmt.Sprint(i), course: c}, nil
}

func (c *course) wait(ctx context.Context, d time.Duration) error {
	if d < 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	if c.ignores {
		time.Sleep(d)
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type courseConn struct {
	net.Conn
	winner string
	course *course
}

func (c *courseConn) Close() error {
	c.course.open.Add(-1)
	return nil
}

// TestRace has each race twice: what is learnt in the first is used in the second.
func TestRace(t *testing.T) {
	far := func(trip time.Duration) host { return host{connects: trip, tls: trip} }
	for name, test := range map[string]struct {
		hosts         []host
		first, second string // each address tried, when, and who won when
	}{
		"all good":                {[]host{good, good, good}, "0@0 → 0@0", "0@0 → 0@0"},
		"a dead one":              {[]host{dead, good}, "0@0 1@250 → 1@250", "1@0 → 1@0"},
		"two dead ones":           {[]host{dead, dead, good}, "0@0 1@250 2@500 → 2@500", "2@0 → 2@0"},
		"two that refuse":         {[]host{refused, refused, good}, "0@0 1@0 2@0 → 2@0", "2@0 → 2@0"},
		"dead, then refused":      {[]host{dead, refused, good}, "0@0 1@250 2@250 → 2@250", "2@0 → 2@0"},
		"a wrong certificate":     {[]host{foreign, good}, "0@0 1@0 → 1@0", "1@0 → 1@0"},
		"a stopped process":       {[]host{stopped, good}, "0@0 1@2000 → 1@2000", "1@0 → 1@0"},
		"stopped and dead":        {[]host{stopped, dead, good}, "0@0 1@2000 2@2250 → 2@2250", "2@0 → 2@0"},
		"far, near":               {[]host{far(300 * ms), good}, "0@0 1@250 → 1@250", "1@0 → 1@0"},
		"far":                     {[]host{far(200 * ms), good}, "0@0 → 0@400", "0@0 → 0@400"},
		"all far":                 {[]host{far(300 * ms), far(300 * ms), far(300 * ms)}, "0@0 1@250 → 0@600", "0@0 1@250 → 0@600"},
		"slow TLS beside a race":  {[]host{dead, {tls: 1900 * ms}, good}, "0@0 1@250 → 1@2150", "1@0 → 1@1900"},
		"six dead ones":           {[]host{dead, dead, dead, dead, dead, dead, good}, "0@0 1@250 2@500 3@750 4@1000 5@1250 6@1500 → 6@1500", "6@0 → 6@0"},
		"all refuse":              {[]host{refused, refused}, "0@0 1@0 → error@0", "0@0 1@0 → error@0"},
		"the last of all is good": {[]host{refused, foreign, dead, stopped, good}, "0@0 1@0 2@0 3@250 4@2250 → 4@2250", "4@0 → 4@0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &course{hosts: test.hosts, delay: connectDelay}
				for i, want := range []string{test.first, test.second} {
					winner, took, err := c.run(t.Context())
					if err != nil {
						winner = "error"
					}
					if c.most > maxAttempts {
						t.Errorf("%d attempts at once", c.most)
					}
					if got := fmt.Sprintf("%s → %s@%d", strings.Join(c.tried, " "), winner, took/ms); got != want {
						t.Errorf("race %d: %s, want %s (%v)", i+1, got, want, err)
					}
				}
			})
		})
	}
}

// TestRaceForgives has a dead address come back: first when its time is over, then when
// it is needed.
func TestRaceForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &course{hosts: []host{dead, good}, delay: connectDelay}
		want := func(want string) {
			t.Helper()
			if winner, _, err := c.run(t.Context()); winner != want {
				t.Errorf("%s (%v), want %s", winner, err, want)
			}
		}
		want("1")
		c.hosts[0] = good
		want("1")
		time.Sleep(10 * time.Second)
		want("0")
		c.hosts = []host{dead, good}
		want("1")
		c.hosts = []host{good, refused}
		want("0")
		c.hosts[1] = good
		want("0")
	})
}

// TestRaceWithoutDelay has a negative dial_fallback_delay: one after the other.
func TestRaceWithoutDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &course{hosts: []host{{connects: 20 * time.Second, refuses: true}, good}, delay: -1}
		if winner, took, err := c.run(t.Context()); winner != "1" || took != 20*time.Second {
			t.Errorf("%s after %s (%v)", winner, took, err)
		}
	})
}

// TestRaceLosers has losers that connect late: their connections are closed.
func TestRaceLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := host{connects: time.Minute}
		c := &course{hosts: []host{slow, slow, {tls: time.Second}, good}, delay: connectDelay, ignores: true}
		if winner, _, err := c.run(t.Context()); winner != "2" {
			t.Errorf("%s (%v)", winner, err)
		}
		time.Sleep(time.Hour)
		if open := c.open.Load(); open != 1 {
			t.Errorf("%d connections are open, want the winner's alone", open)
		}
	})
}

// TestRaceEnds has the client give up, which says nothing of an address, and the time be
// up, which does.
func TestRaceEnds(t *testing.T) {
	for _, test := range []struct {
		cause error
		next  string // what is tried the next time
	}{
		{context.Canceled, "0@0 1@250 2@500"},
		{&TimeoutError{time.Second}, "2@0 0@250 1@500"},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &course{hosts: []host{dead, dead, dead}, delay: connectDelay}
			for i, want := range []string{"0@0 1@250 2@500", test.next} {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(600*ms, func() { cancel(test.cause) })
				if _, took, err := c.run(ctx); err != test.cause || took != 600*ms {
					t.Errorf("%v after %s, want %v", err, took, test.cause)
				}
				synctest.Wait()
				if got := strings.Join(c.tried, " "); got != want {
					t.Errorf("%v, race %d: tried %s, want %s", test.cause, i+1, got, want)
				}
			}
		})
	}
}

// TestRaceManyAddresses has the last of many addresses alone be good: each has its turn.
func TestRaceManyAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &course{hosts: make([]host, 250), delay: connectDelay}
		for i := range c.hosts[1:] {
			c.hosts[i] = refused
		}
		for range 250 / maxAddresses {
			if winner, _, err := c.run(t.Context()); err == nil {
				t.Errorf("%s wins before its turn", winner)
			}
		}
		if winner, _, err := c.run(t.Context()); winner != "249" {
			t.Errorf("%q (%v), want 249", winner, err)
		}
	})
}

// TestRaceShortOfTime has a handshake_timeout that is over before a second address is
// tried: the next time it is.
func TestRaceShortOfTime(t *testing.T) {
	for name, c := range map[string]*course{
		"dead":              {hosts: []host{dead, good}, delay: connectDelay},
		"a stopped process": {hosts: []host{stopped, good}, delay: connectDelay},
		"without delay":     {hosts: []host{stopped, good}, delay: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(200*ms, func() { cancel(&TimeoutError{200 * ms}) })
				if winner, _, err := c.run(ctx); err == nil {
					t.Errorf("%s wins before its time", winner)
				}
				synctest.Wait()
				if winner, _, err := c.run(t.Context()); winner != "1" || c.tried[0] != "1@0" {
					t.Errorf("the next time %s wins (%v), tried %s; want 1 at once", winner, err, c.tried)
				}
			})
		})
	}
}

// TestRaceErrors has all addresses fail: the error is that of the one that got furthest,
// and tells of each.
func TestRaceErrors(t *testing.T) {
	for _, test := range []struct {
		hosts []host
		stage Stage
		text  string
	}{
		{[]host{refused}, StageConnect, "dial tcp 10.0.0.0:443: refused"},
		{[]host{foreign}, StageTLS, "tls: distrusted"},
		{[]host{refused, refused}, StageConnect, "2 addresses failed: dial tcp 10.0.0.0:443: refused; dial tcp 10.0.0.1:443: refused"},
		{[]host{foreign, refused}, StageTLS, "2 addresses failed: 10.0.0.0: tls: distrusted; dial tcp 10.0.0.1:443: refused"},
		{[]host{refused, foreign}, StageTLS, "2 addresses failed: dial tcp 10.0.0.0:443: refused; 10.0.0.1: tls: distrusted"},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &course{hosts: test.hosts, delay: connectDelay}
			_, _, err := c.run(t.Context())
			failure := (&Relay{Target: Target{Name: "wss://relay.example"}}).failure(t.Context(), err, true)
			if failure.Stage != test.stage || failure.Error() != "connecting to wss://relay.example: "+test.text {
				t.Errorf("%s: %v, want %s: %s", failure.Stage, failure, test.stage, test.text)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := &course{hosts: []host{dead, refused, foreign, good}, delay: connectDelay}
		c.run(t.Context())
		const want = "tls: 3 addresses failed: dial tcp 10.0.0.1:443: refused; 10.0.0.2: tls: distrusted; 10.0.0.0: no connection in time; another address served"
		if c.served != want {
			t.Errorf("%s, want %s", c.served, want)
		}
	})
	many := &course{delay: connectDelay}
	for range maxAddresses {
		many.hosts = append(many.hosts, refused)
	}
	many.delay = time.Hour
	_, _, err := many.run(t.Context())
	failure := (&Relay{}).failure(t.Context(), err, false)
	if len(failure.Error()) > 2*maxText || !strings.Contains(failure.Error(), "64 addresses failed: dial tcp 10.0.0.0:443") {
		t.Error(failure)
	}
}

// TestShortage: a relay is down where one of its addresses fails for another reason than
// that this machine is short of something. Without IPv6, as in many containers, each
// address of IPv6 "cannot be assigned".
func TestShortage(t *testing.T) {
	dial := func(errno syscall.Errno) error {
		return &dialError{StageConnect, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}}
	}
	for _, test := range []struct {
		errs []error
		down bool
	}{
		{[]error{dial(syscall.ECONNREFUSED)}, true},
		{[]error{dial(syscall.EADDRNOTAVAIL)}, false},
		{[]error{dial(syscall.EMFILE), dial(syscall.EADDRNOTAVAIL)}, false},
		{[]error{dial(syscall.ECONNREFUSED), dial(syscall.EADDRNOTAVAIL)}, true},
		{[]error{dial(syscall.EADDRNOTAVAIL), dial(syscall.ECONNREFUSED)}, true},
		{[]error{dial(syscall.EADDRNOTAVAIL), &dialError{StageTLS, errors.New("distrusted")}}, true},
	} {
		var all failures
		for _, err := range test.errs {
			all = append(all, failed{netip.MustParseAddr("::1"), err})
		}
		if failure := new(Relay).failure(t.Context(), all.error(), false); failure.Down() != test.down {
			t.Errorf("%v: down is %t, want %t", failure, !test.down, test.down)
		}
	}
}
