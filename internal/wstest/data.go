package wstest

import (
	"encoding/binary"
	"fmt"
)

// Pattern fills p with the bytes that stand at offset of the endless stream named
// seed. Each eight bytes tell where they belong, so that a byte that is lost,
// repeated or out of place shows, whatever the size of the pieces.
func Pattern(p []byte, seed, offset uint64) {
	for at := offset; len(p) > 0; {
		word := scatter(seed, at/8) >> (8 * (at % 8))
		if at%8 == 0 && len(p) >= 8 { // nearly always: tests fill megabytes
			binary.LittleEndian.PutUint64(p, word)
			p, at = p[8:], at+8
			continue
		}
		p[0] = byte(word)
		p, at = p[1:], at+1
	}
}

// CheckPattern returns an error that names the first byte of p that is not as
// Pattern makes it.
func CheckPattern(p []byte, seed, offset uint64) error {
	for i, b := range p {
		at := offset + uint64(i)
		if want := byte(scatter(seed, at/8) >> (8 * (at % 8))); b != want {
			return fmt.Errorf("byte %d of stream %d is %#02x, want %#02x", at, seed, b, want)
		}
	}
	return nil
}

// scatter is the finalizer of splitmix64: a different number for each word of each
// stream.
func scatter(seed, word uint64) uint64 {
	x := seed*0x9e3779b97f4a7c15 + word + 1
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// StampSize is the length of what begins each stamped message, and so that of the
// shortest one, in bytes.
const StampSize = 16

// StampedMessage returns a message of size bytes that says whose it is and which: the
// seq-th of the peer with this id. Its other bytes follow from both.
func StampedMessage(id, seq uint64, size int) []byte {
	p := make([]byte, max(size, StampSize))
	binary.BigEndian.PutUint64(p, id)
	binary.BigEndian.PutUint64(p[8:], seq)
	Pattern(p[StampSize:], id^seq<<32, 0)
	return p
}

// CheckMessage returns what is wrong with p as StampedMessage makes it.
func CheckMessage(p []byte, id, seq uint64) error {
	if len(p) < StampSize {
		return fmt.Errorf("a message of %d bytes, which is too short for a stamp", len(p))
	}
	gotID, gotSeq := binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
	if gotID != id || gotSeq != seq {
		return fmt.Errorf("message %d of peer %d, want %d of %d", gotSeq, gotID, seq, id)
	}
	if err := CheckPattern(p[StampSize:], id^seq<<32, 0); err != nil {
		return fmt.Errorf("message %d of peer %d: %w", seq, id, err)
	}
	return nil
}
