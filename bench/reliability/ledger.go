package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sort"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ledger is what was written to a TCP connection, and how much of it the other
// side's kernel has acknowledged.
type ledger struct {
	*net.TCPConn
	written atomic.Int64 // bytes on the wire
	entries []entry      // in order
	records records      // that came in, if it is TLS
}

// Read looks at what comes in.
func (l *ledger) Read(p []byte) (int, error) {
	n, err := l.TCPConn.Read(p)
	l.records.add(p[:n])
	return n, err
}

// records follows the records of TLS 1.3, as crypto/tls takes an end without
// close_notify for one with it.
type records struct {
	head []byte
	left int // of the current record
	size int // of the last
}

func (r *records) add(p []byte) {
	for len(p) > 0 {
		if r.left == 0 {
			r.head = append(r.head, p[0])
			p = p[1:]
			if len(r.head) == 5 {
				r.size = int(binary.BigEndian.Uint16(r.head[3:]))
				r.head, r.left = r.head[:0], r.size
			}
			continue
		}
		n := min(r.left, len(p))
		r.left, p = r.left-n, p[n:]
	}
}

// closeNotify says whether the last record was an alert, which is known by its
// size: two bytes, the content type, and the cipher's tag. No message here is
// as short.
func (r *records) closeNotify() bool { return r.left == 0 && r.size == 2+1+16 }

// entry records how many bytes had gone to the wire when so much payload was written.
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
