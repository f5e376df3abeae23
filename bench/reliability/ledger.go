package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sort"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// fill writes what stands at offset in the payload of a direction: words that
// hold their own number, so that a byte lost, doubled or moved is seen.
func fill(p []byte, direction uint64, offset int64) {
	for len(p) > 0 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], (direction<<40^uint64(offset/8))*0x9e3779b97f4a7c15)
		n := copy(p, word[offset%8:])
		p, offset = p[n:], offset+int64(n)
	}
}

// ledger is what was written to a TCP connection, and how much of it the other
// side's kernel has acknowledged.
type ledger struct {
	*net.TCPConn
	written atomic.Int64 // bytes on the wire
	entries []entry      // in order
}

// entry says that the payload up to some length had been written with so many
// bytes on the wire.
type entry struct {
	wire, payload int64
}

// Write counts.
func (l *ledger) Write(p []byte) (int, error) {
	n, err := l.TCPConn.Write(p)
	l.written.Add(int64(n))
	return n, err
}

// enter notes what has been written by now.
func (l *ledger) enter(payload int64) {
	l.entries = append(l.entries, entry{l.written.Load(), payload})
}

// acknowledged returns how many bytes on the wire the other side has. More may
// be acknowledged in the next instant, but not less.
func (l *ledger) acknowledged() (int64, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return 0, err
	}
	written := l.written.Load()
	var queued int
	err = errors.Join(raw.Control(func(fd uintptr) {
		queued, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	}), err)
	return written - int64(queued), err
}

// accepted returns how much payload the other side's kernel has for certain.
func (l *ledger) accepted() (int64, error) {
	wire, err := l.acknowledged()
	return payloadAt(l.entries, wire), err
}

// payloadAt is the payload that is whole within so many bytes on the wire.
func payloadAt(entries []entry, wire int64) int64 {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].wire > wire })
	if i == 0 {
		return 0
	}
	return entries[i-1].payload
}
