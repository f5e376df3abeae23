package tunnel

import "time"

// State is what can be told of a tunnel while it lives. Its counters go on.
type State struct {
	Info
	ID     uint64
	Opened time.Time
	Idle   time.Duration // since the last byte in either direction

	// Bytes that have been forwarded, delivered or not, and frames that have begun.
	BytesToRelay, BytesToClient   uint64
	FramesToRelay, FramesToClient uint64
}

// State returns the tunnel's state. It holds no lock.
func (t *Tunnel) State() State {
	active := time.Duration(t.active.Load()) // before the time is taken: it goes on
	return State{
		Info: t.Info, ID: t.id, Opened: t.opened,
		Idle:         time.Since(t.opened) - active,
		BytesToRelay: t.toRelay.bytes.Load(), BytesToClient: t.toClient.bytes.Load(),
		FramesToRelay: t.toRelay.frames.Load(), FramesToClient: t.toClient.frames.Load(),
	}
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
