package relay

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxAddresses bounds how many addresses of one name are tried in a row.
	maxAddresses = 64
	// maxFailed bounds how many addresses of one name are remembered to have failed. It is
	// more than are tried in a row, so that each of many has its turn.
	maxFailed = 1024
	// maxNames bounds how many names are remembered. There are as many as relays are
	// configured; more only where the name of a forward proxy holds placeholders.
	maxNames = 1024
	// lookupPatience is how long a lookup may take before the last good answer serves.
	lookupPatience = time.Second
)

// nameKey says whose addresses they are: those of one host and port, as they are
// connected to by one transport.
type nameKey struct {
	address   string // host:port
	tls       bool
	transport string // tells transports apart
}

// names is the process's memory of names. It outlives reloads.
var names = nameMemory{known: make(map[nameKey]*name)}

type nameMemory struct {
	mu    sync.Mutex // protects what follows, and used of each name; never held with that of a name
	known map[nameKey]*name
}

// get returns what is known of a name. The least recently used makes room for a new one.
func (m *nameMemory) get(key nameKey) *name {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.known[key]
	if !ok {
		if len(m.known) >= maxNames {
			m.forgetOne()
		}
		n = new(name)
		m.known[key] = n
	}
	n.used = time.Now()
	return n
}

func (m *nameMemory) forgetOne() {
	var oldest nameKey
	var used time.Time
	for key, n := range m.known {
		if used.IsZero() || n.used.Before(used) {
			oldest, used = key, n.used
		}
	}
	delete(m.known, oldest)
}

// name is what is known of a name: the last good answer of DNS, and which addresses have
// failed.
type name struct {
	used time.Time // protected by the memory's lock

	mu     sync.Mutex // protects what follows; no I/O under it
	answer []netip.Addr
	lookup *lookup // the one under way, or nil
	failed map[netip.Addr]time.Time
}

// lookup is a question to DNS that all who ask at the same time share. It goes on when
// they no longer wait, so that a slow answer is known the next time.
type lookup struct {
	begun time.Time
	done  chan struct{} // closed when what follows is set
	addrs []netip.Addr
	err   error
}

// errLookupSlow is why the last good answer serves when DNS may still answer.
var errLookupSlow = fmt.Errorf("no answer of DNS within %s", lookupPatience)

// resolve asks DNS, by look, which takes a bounded time. If that fails or takes longer
// than lookupPatience, the last good answer serves, if there is one: it is returned with
// the error that it stands for.
func (n *name) resolve(ctx context.Context, look func() ([]netip.Addr, error)) ([]netip.Addr, error) {
	l, last := n.join(look)
	var late <-chan time.Time
	if last != nil {
		timer := time.NewTimer(time.Until(l.begun.Add(lookupPatience)))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-l.done:
		if l.err != nil {
			return last, l.err
		}
		return l.addrs, nil
	case <-late:
		return last, errLookupSlow
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// join returns the lookup under way, or a new one, and the last good answer.
func (n *name) join(look func() ([]netip.Addr, error)) (*lookup, []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lookup == nil {
		n.lookup = &lookup{begun: time.Now(), done: make(chan struct{})}
		go n.ask(n.lookup, look)
	}
	return n.lookup, n.answer
}

func (n *name) ask(l *lookup, look func() ([]netip.Addr, error)) {
	l.addrs, l.err = look()
	n.mu.Lock()
	n.lookup = nil
	if l.err == nil {
		n.answer = l.addrs
	}
	n.mu.Unlock()
	close(l.done)
}

// order returns addresses as they are to be tried: the families alternating, beginning
// with that of the first (RFC 8305, section 4), and those that failed less than
// failDuration ago after all others.
func (n *name) order(addrs []netip.Addr, failDuration time.Duration) []netip.Addr {
	if len(addrs) == 1 {
		return addrs
	}
	var good, failed []netip.Addr
	n.mu.Lock()
	for _, addr := range addrs {
		if when, ok := n.failed[addr]; ok && time.Since(when) < failDuration {
			failed = append(failed, addr)
		} else {
			good = append(good, addr)
		}
	}
	n.mu.Unlock()
	ordered := append(alternate(good), alternate(failed)...)
	return ordered[:min(len(ordered), maxAddresses)]
}

// alternate orders addresses so that the families alternate.
func alternate(addrs []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() == addrs[0].Is4() {
			first = append(first, addr)
		} else {
			second = append(second, addr)
		}
	}
	ordered := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			ordered = append(ordered, first[i])
		}
		if i < len(second) {
			ordered = append(ordered, second[i])
		}
	}
	return ordered
}

// noteFailed remembers that an address has failed. The longest ago makes room for a new
// one.
func (n *name) noteFailed(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failed == nil {
		n.failed = make(map[netip.Addr]time.Time)
	}
	n.failed[addr] = time.Now()
	if len(n.failed) <= maxFailed {
		return
	}
	oldest := addr
	for other, when := range n.failed {
		if when.Before(n.failed[oldest]) {
			oldest = other
		}
	}
	delete(n.failed, oldest)
}

// noteWorks forgets that an address has failed.
func (n *name) noteWorks(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.failed, addr)
}

// lookUp returns the addresses of host to which reachable does not object.
func lookUp(ctx context.Context, servers resolvers, host string, reachable func(netip.Addr) bool) ([]netip.Addr, error) {
	found, err := servers.lookUp(ctx, host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range found {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addr = addr.Unmap().WithZone(a.Zone)
			if reachable(addr) {
				addrs = append(addrs, addr)
			}
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("lookup %s: no address of the family of local_address", host)
	}
	return addrs, nil
}
