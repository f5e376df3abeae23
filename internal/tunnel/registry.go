package tunnel

import (
	"sync"
	"sync/atomic"
	"time"
)

// Registry holds the tunnels of the process, grouped by upstream. It refers to
// no configuration: configurations hold leases on groups, and tunnels live on
// when the lease they were opened under is exchanged for another.
type Registry struct {
	onClose func(Summary)
	ids     atomic.Uint64

	mu     sync.Mutex // protects groups; taken when configurations change
	groups map[string]*Group
}

// NewRegistry returns an empty registry. onClose is called once for each tunnel
// that ends, by the goroutine that ends it.
func NewRegistry(onClose func(Summary)) *Registry {
	return &Registry{onClose: onClose, groups: make(map[string]*Group)}
}

// Lease is a configuration's claim that an upstream is in use.
type Lease struct {
	group  *Group
	window time.Duration
}

// Lease says that a configuration uses upstream. When the last lease of an
// upstream is released, its tunnels are drained over that lease's window. A new
// lease ends a drain: what is still open then stays open.
func (r *Registry) Lease(upstream string, window time.Duration) *Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[upstream]
	if g == nil {
		g = newGroup(r)
		r.groups[upstream] = g
	}
	l := &Lease{group: g, window: window}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leases[l] = struct{}{}
	g.stopDrainLocked()
	return l
}

// Release gives the lease back, and drains its upstream if it was the last.
func (l *Lease) Release() {
	r, g := l.group.registry, l.group
	r.mu.Lock()
	defer r.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.leases, l)
	if len(g.leases) == 0 {
		g.drainLocked(l.window)
		r.forgetLocked(g)
	}
}

// Drain drains the upstream although it is leased: the process is about to end.
// The longest window of its leases counts. It returns how long the drain takes at
// the most.
func (l *Lease) Drain() (within time.Duration) {
	g := l.group
	g.mu.Lock()
	defer g.mu.Unlock()
	window := l.window
	for other := range g.leases {
		window = max(window, other.window)
	}
	g.drainLocked(window)
	return window + linger
}

// Draining reports whether the upstream takes no more tunnels.
func (l *Lease) Draining() bool { return l.group.draining.Load() }

// Open starts a tunnel between client and relay. It takes ownership of both legs.
// idle closes a tunnel through which nothing has gone for so long; zero never
// does. A tunnel opened while its upstream is drained is closed at once, with a
// Close frame.
func (l *Lease) Open(info Info, client, relay Leg, idle time.Duration) *Tunnel {
	g := l.group
	t := newTunnel(info, client, relay, idle)
	t.group, t.id = g, g.registry.ids.Add(1)
	begin := t.prepare()
	draining := g.add(t)
	begin()
	t.startIdleTimer()
	if draining {
		t.goAway(reasonDrained)
	}
	return t
}

// Wait returns when no group is being drained any more.
func (r *Registry) Wait() {
	for _, d := range r.drains() {
		<-d.done
	}
}

func (r *Registry) drains() []*drain {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ds []*drain
	for _, g := range r.groups {
		g.mu.Lock()
		if g.drain != nil {
			ds = append(ds, g.drain)
		}
		g.mu.Unlock()
	}
	return ds
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
	for name, other := range r.groups {
		if other == g {
			delete(r.groups, name)
		}
	}
}

// shards is how many locks a group's tunnels are spread over, so that handshakes
// on many cores do not queue on one.
const shards = 16

// Group is the tunnels of one upstream.
type Group struct {
	registry *Registry
	shards   [shards]shard
	count    atomic.Int64
	emptied  chan struct{} // of capacity 1: the last tunnel has gone
	draining atomic.Bool

	mu     sync.Mutex // protects what follows
	leases map[*Lease]struct{}
	drain  *drain // nil unless draining
}

type shard struct {
	mu      sync.Mutex // protects tunnels
	tunnels map[*Tunnel]struct{}
}

func newGroup(r *Registry) *Group {
	g := &Group{registry: r, leases: make(map[*Lease]struct{}), emptied: make(chan struct{}, 1)}
	for i := range g.shards {
		g.shards[i].tunnels = make(map[*Tunnel]struct{})
	}
	return g
}

func (g *Group) shard(t *Tunnel) *shard { return &g.shards[t.id%shards] }

// add reports whether the group is draining: a drain that began before has not
// seen t, one that begins later will.
func (g *Group) add(t *Tunnel) (draining bool) {
	g.count.Add(1)
	s := g.shard(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnels[t] = struct{}{}
	return g.draining.Load()
}

func (g *Group) remove(t *Tunnel, sum Summary) {
	s := g.shard(t)
	s.mu.Lock()
	delete(s.tunnels, t)
	s.mu.Unlock()
	g.registry.onClose(sum)
	if g.count.Add(-1) == 0 {
		select {
		case g.emptied <- struct{}{}:
		default:
		}
		if g.draining.Load() {
			g.registry.forget(g) // unless its upstream is leased again
		}
	}
}

// all returns the group's tunnels in no particular order.
func (g *Group) all() []*Tunnel {
	var ts []*Tunnel
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		for t := range s.tunnels {
			ts = append(ts, t)
		}
		s.mu.Unlock()
	}
	return ts
}
