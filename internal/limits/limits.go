// Package limits counts what the process holds, in all and for each client.
//
// It knows nothing of Caddy.
package limits

import (
	"errors"
	"net/netip"
	"sync"
)

// Why Take gives no slot.
var (
	ErrClient = errors.New("the client holds as many tunnels as one may")
	ErrTotal  = errors.New("the proxy holds as many tunnels as it may")
)

// Limits are those of whoever asks for a slot. Zero means none.
type Limits struct {
	Total     int // for all clients together
	PerClient int
}

// Slots are what is held. They have no limits of their own, so that those who ask may
// have different ones, and change them. The zero value holds nothing.
//
// What is kept is a number for each client that holds a slot: fewer than there are
// slots.
type Slots struct {
	mu      sync.Mutex // protects what follows
	held    int
	clients map[netip.Prefix]int
}

// Take takes a slot for a client, unless there are as many as limits allow: ErrClient
// or, after that, ErrTotal. An invalid address is no client, and has no limit.
func (s *Slots) Take(client netip.Addr, limits Limits) (*Slot, error) {
	network := networkOf(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if limits.PerClient > 0 && s.clients[network] >= limits.PerClient {
		return nil, ErrClient
	}
	if limits.Total > 0 && s.held >= limits.Total {
		return nil, ErrTotal
	}
	s.held++
	if network.IsValid() {
		if s.clients == nil {
			s.clients = make(map[netip.Prefix]int)
		}
		s.clients[network]++
	}
	return &Slot{slots: s, client: network}, nil
}

// Held returns how many slots are taken.
func (s *Slots) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Clients returns how many clients hold a slot.
func (s *Slots) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// Slot is one that is taken.
type Slot struct {
	slots  *Slots
	client netip.Prefix // invalid for none
	freed  bool         // protected by slots.mu
}

// Free gives the slot back. Only the first call does. nil is no slot, and has nothing
// to give.
func (s *Slot) Free() {
	if s == nil {
		return
	}
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	if s.freed {
		return
	}
	s.freed = true
	s.slots.held--
	if !s.client.IsValid() {
		return
	}
	if s.slots.clients[s.client]--; s.slots.clients[s.client] == 0 {
		delete(s.slots.clients, s.client)
	}
}

// bitsIPv6 is what tells one client with IPv6 from another: each network of users has
// a /64 at least, and its users choose the rest (RFC 4291, section 2.5.1; RFC 8981).
const bitsIPv6 = 64

// networkOf returns what counts as one client.
func networkOf(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := client.BitLen()
	if client.Is6() {
		bits = bitsIPv6
	}
	network, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}
