package tunnel

import (
	"cmp"
	"slices"
	"time"
)

// Traffic is what tunnels have carried: bytes that have been forwarded, delivered or
// not, and frames that have begun. It only grows.
type Traffic struct {
	BytesToRelay, BytesToClient   uint64
	FramesToRelay, FramesToClient uint64
}

func (t *Traffic) add(more Traffic) {
	t.BytesToRelay += more.BytesToRelay
	t.BytesToClient += more.BytesToClient
	t.FramesToRelay += more.FramesToRelay
	t.FramesToClient += more.FramesToClient
}

// State is what can be told of a tunnel while it lives.
type State struct {
	Info
	Traffic
	ID     uint64
	Opened time.Time
	Idle   time.Duration // since the last byte in either direction
}

// ID is unique within the process. Tunnels that were opened later have greater ones.
func (t *Tunnel) ID() uint64 { return t.id }

// State returns the tunnel's state. It holds no lock.
func (t *Tunnel) State() State {
	active := time.Duration(t.active.Load()) // before the time is taken: it goes on
	return State{
		Info: t.Info, Traffic: t.traffic(), ID: t.id, Opened: t.opened,
		Idle: time.Since(t.opened) - active,
	}
}

func (t *Tunnel) traffic() Traffic {
	return Traffic{
		BytesToRelay: t.toRelay.bytes.Load(), BytesToClient: t.toClient.bytes.Load(),
		FramesToRelay: t.toRelay.frames.Load(), FramesToClient: t.toClient.frames.Load(),
	}
}

// Alive reports whether the tunnel has not ended yet.
func (t *Tunnel) Alive() bool {
	s := t.group.shard(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, alive := s.tunnels[t]
	return alive
}

// Tunnels returns the living tunnels of all upstreams in no particular order. A
// handshake waits at most for the copying of one shard, a sixteenth of an upstream's
// tunnels.
func (r *Registry) Tunnels() []*Tunnel {
	r.mu.Lock()
	groups := make([]*Group, 0, len(r.groups))
	for _, g := range r.groups {
		groups = append(groups, g)
	}
	r.mu.Unlock()
	var ts []*Tunnel
	for _, g := range groups {
		ts = append(ts, g.all()...)
	}
	return ts
}

// UpstreamState is what can be told of the tunnels of an upstream.
type UpstreamState struct {
	Name       string
	Configured bool // by the configuration that runs
	Tunnels    int
	Drain      *DrainState // nil unless it is being drained
	Traffic                // of all its tunnels, also those that have ended
}

// DrainState is how far the drain of an upstream has come.
type DrainState struct {
	Total, Left int       // tunnels: when it began, and now
	Ends        time.Time // when the last is told to go, at the latest
}

// Upstreams returns the state of each upstream that a configuration names, be it one
// that is still being loaded, or that has carried anything, by name. A handshake waits no longer for it than for Tunnels.
func (r *Registry) Upstreams() []UpstreamState {
	states := make(map[string]UpstreamState)
	living := make(map[string][]*Tunnel)
	r.mu.Lock()
	for name, past := range r.past {
		states[name] = UpstreamState{Name: name, Traffic: past}
	}
	for name, g := range r.groups {
		s := g.state()
		living[name], s.Traffic = g.copyShards()
		s.Traffic.add(r.past[name])
		s.Tunnels = len(living[name])
		states[name] = s
	}
	r.mu.Unlock()
	// A tunnel that ends meanwhile keeps its counters, and is not among the ended ones.
	all := make([]UpstreamState, 0, len(states))
	for name, s := range states {
		for _, t := range living[name] {
			s.Traffic.add(t.traffic())
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b UpstreamState) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// state returns what g itself knows.
func (g *Group) state() UpstreamState {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settleLocked()
	s := UpstreamState{Name: g.name}
	for l := range g.leases {
		s.Configured = s.Configured || l.isActive()
	}
	if g.drain != nil {
		s.Drain = &DrainState{Total: g.drain.total, Left: int(g.count.Load()), Ends: g.drain.until}
	}
	return s
}
