package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// Registry holds the tunnels of the process, grouped by upstream. It refers to
// no configuration: configurations hold leases on groups, and tunnels live on
// when the lease they were opened under is replaced by another.
type Registry struct {
	onClose  func(Summary)
	ids      atomic.Uint64
	stopping atomic.Bool // set while mu is held; never reset

	mu      sync.Mutex // protects what follows; no handshake waits for it
	groups  map[string]*Group
	past    map[string]Traffic // of groups that are gone: one for each upstream that has carried anything
	stopped time.Time          // when the drains of Stop are over
}

// NewRegistry returns an empty registry. onClose is called once for each tunnel
// that ends, by the goroutine that ends it.
func NewRegistry(onClose func(Summary)) *Registry {
	return &Registry{onClose: onClose, groups: make(map[string]*Group), past: make(map[string]Traffic)}
}

// Lease is a configuration's claim that an upstream is in use.
type Lease struct {
	upstream string
	group    *Group
	window   time.Duration
	active   func() bool
}

// Lease prepares a configuration's use of upstream. The lease counts while active
// returns true, which says that the configuration is the one that runs: one that is
// still being loaded may yet be rejected, and must not change anything. nil is
// always active. active is called with locks held and must not block.
//
// When an upstream is released and no active lease is left, its tunnels are drained
// over the longest window of its leases. A lease that becomes active ends that: what
// is still open then stays open.
func (r *Registry) Lease(upstream string, window time.Duration, active func() bool) *Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[upstream]
	if g == nil {
		g = newGroup(r, upstream)
		r.groups[upstream] = g
	}
	l := &Lease{upstream: upstream, group: g, window: window, active: active}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leases[l] = struct{}{}
	g.settleLocked()
	return l
}

func (l *Lease) isActive() bool { return l.active == nil || l.active() }

// Release gives the lease back, and drains its upstream if no active one is left.
func (l *Lease) Release() {
	r, g := l.group.registry, l.group
	r.mu.Lock()
	defer r.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	window := g.windowLocked(false)
	delete(g.leases, l)
	if g.drain == nil && !g.inUseLocked() {
		g.drainLocked(window)
	}
	r.forgetLocked(g)
}

// Stop drains every upstream, because the process is about to end: from now on no
// lease ends a drain, and what is opened is closed at once. Drains that are under way
// go on. It returns how long it all takes at the most, linger included, counted from
// the first call; further calls change nothing.
func (r *Registry) Stop() (limit time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping.Swap(true) {
		return time.Until(r.stopped)
	}
	now := time.Now()
	last := now
	// What is being loaded may have windows of its own, which do not count.
	running := r.runningLocked()
	for _, g := range r.groups {
		g.mu.Lock()
		g.drainLocked(g.windowLocked(running))
		last = later(last, g.drain.until)
		g.mu.Unlock()
	}
	r.stopped = last.Add(linger)
	return r.stopped.Sub(now)
}

// Leased reports whether there is any lease, active or not.
func (r *Registry) Leased() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.groups {
		g.mu.Lock()
		n := len(g.leases)
		g.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return false
}

// runningLocked reports whether any lease is active: it is not if the configuration
// has been stopped already. r.mu is held.
func (r *Registry) runningLocked() bool {
	for _, g := range r.groups {
		g.mu.Lock()
		for l := range g.leases {
			if l.isActive() {
				g.mu.Unlock()
				return true
			}
		}
		g.mu.Unlock()
	}
	return false
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Stopping reports whether Stop has been called.
func (r *Registry) Stopping() bool { return r.stopping.Load() }

// Draining reports whether the upstream takes no more tunnels.
func (l *Lease) Draining() bool { return l.group.takesNone() }

// Open starts a tunnel between client and relay. It takes ownership of both legs.
// idle closes a tunnel through which nothing has gone for so long; zero never
// does. A tunnel opened while its upstream is drained is closed at once, with a
// Close frame.
func (l *Lease) Open(info Info, client, relay Leg, idle time.Duration) *Tunnel {
	g := l.enter()
	t := newTunnel(info, client, relay, idle)
	t.group, t.id = g, g.registry.ids.Add(1)
	begin := t.prepare()
	draining := g.add(t)
	begin()
	t.startIdleTimer()
	if draining && g.takesNone() {
		t.goAway(reasonDrained)
	}
	return t
}

// enter counts a tunnel that is about to be opened, and returns its group. That is not
// l's if l has been released and its group forgotten, since a handshake takes a while.
func (l *Lease) enter() *Group {
	r, g := l.group.registry, l.group
	g.count.Add(1)
	if !g.draining.Load() {
		return g // which is not forgotten before it is drained
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	current := r.groups[l.upstream]
	if current == g {
		return g
	}
	g.leave()
	if current != nil {
		current.count.Add(1)
		return current
	}
	g = newGroup(r, l.upstream)
	g.count.Add(1)
	r.groups[l.upstream] = g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.drainLocked(0)
	return g
}

// EndAll ends all tunnels, as if each had had its time to close: what is left to be
// delivered has lastMoment for it.
func (r *Registry) EndAll() {
	for _, t := range r.Tunnels() {
		t.cutOff()
	}
}

// Wait returns when no group is being drained any more.
func (r *Registry) Wait() {
	for g, d := range r.drains() {
		<-d.done
		g.awaitEmpty(d) // a handshake may have been over only when all others had gone
	}
}

func (r *Registry) drains() map[*Group]*drain {
	r.mu.Lock()
	defer r.mu.Unlock()
	drains := make(map[*Group]*drain)
	for _, g := range r.groups {
		g.mu.Lock()
		if g.drain != nil {
			drains[g] = g.drain
		}
		g.mu.Unlock()
	}
	return drains
}

// forget drops g if nobody uses it.
func (r *Registry) forget(g *Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	r.forgetLocked(g)
}

// forgetLocked does so while r.mu and g.mu are held.
func (r *Registry) forgetLocked(g *Group) {
	if len(g.leases) > 0 || g.count.Load() > 0 {
		return
	}
	if r.groups[g.name] == g {
		delete(r.groups, g.name)
	}
	past := r.past[g.name]
	for i := range g.shards {
		past.add(g.shards[i].takeEnded())
	}
	if past != (Traffic{}) {
		r.past[g.name] = past
	}
}

// shards is how many locks a group's tunnels are spread over, so that handshakes
// on many cores do not queue on one.
const shards = 16

// Group is the tunnels of one upstream.
type Group struct {
	registry *Registry
	name     string // the upstream's
	shards   [shards]shard
	count    atomic.Int64
	emptied  chan struct{} // of capacity 1: the last tunnel has gone
	draining atomic.Bool

	mu     sync.Mutex // protects what follows
	leases map[*Lease]struct{}
	drain  *drain // nil unless draining
}

// shard counts a tunnel that ends in the moment in which it loses it, so that at any
// time all traffic is there, and once.
type shard struct {
	mu      sync.Mutex // protects what follows
	tunnels map[*Tunnel]struct{}
	ended   Traffic // of tunnels that have ended
}

func newGroup(r *Registry, name string) *Group {
	g := &Group{registry: r, name: name, leases: make(map[*Lease]struct{}), emptied: make(chan struct{}, 1)}
	for i := range g.shards {
		g.shards[i].tunnels = make(map[*Tunnel]struct{})
	}
	return g
}

func (g *Group) shard(t *Tunnel) *shard { return &g.shards[t.id%shards] }

// takesNone reports whether the group takes no more tunnels.
func (g *Group) takesNone() bool { return g.registry.stopping.Load() || g.currentDrain() != nil }

// add adds t, which is counted, and reports whether the group is draining: a drain that
// began before has not seen t, one that begins later will.
func (g *Group) add(t *Tunnel) (draining bool) {
	s := g.shard(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels[t] = struct{}{}
	return g.draining.Load() || g.registry.stopping.Load()
}

func (g *Group) remove(t *Tunnel, sum Summary) {
	s := g.shard(t)
	s.mu.Lock()
	delete(s.tunnels, t)
	s.ended.add(t.traffic())
	s.mu.Unlock()
	if t.Slot != nil {
		t.Slot.Free()
	}
	g.registry.onClose(sum)
	if g.leave() && g.draining.Load() {
		g.registry.forget(g) // unless its upstream is leased
	}
}

// leave takes a tunnel off the count, and reports whether it was the last.
func (g *Group) leave() (last bool) {
	if g.count.Add(-1) > 0 {
		return false
	}
	select {
	case g.emptied <- struct{}{}:
	default:
	}
	return true
}

// all returns the group's tunnels in no particular order.
func (g *Group) all() []*Tunnel {
	ts, _ := g.copyShards()
	return ts
}

// copyShards returns the group's tunnels in no particular order, and what those have
// carried that had ended by then.
func (g *Group) copyShards() (ts []*Tunnel, ended Traffic) {
	ts = make([]*Tunnel, 0, g.count.Load())
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		for t := range s.tunnels {
			ts = append(ts, t)
		}
		ended.add(s.ended)
		s.mu.Unlock()
	}
	return ts, ended
}

// takeEnded hands over what the shard has counted.
func (s *shard) takeEnded() Traffic {
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := s.ended
	s.ended = Traffic{}
	return ended
}
