package wire

import (
	"bytes"
	"encoding/binary"
)

// BulkFrameSize is that of each frame of a bulk transfer, head and all: one
// full TLS record.
const BulkFrameSize = 16 << 10

// What a client sends as its first message to have a bulk transfer.
const (
	BulkUp   = "bulk up"
	BulkDown = "bulk down " // and for how many milliseconds
)

// Bulk is the same frame over and over, made once, so that neither end spends
// its time on anything but carrying it.
type Bulk struct {
	frame, last []byte
}

// BulkFrom returns the frames that a client sends, which are masked, or a relay.
func BulkFrom(client bool) Bulk {
	return Bulk{bulkFrame(opBinary, client), bulkFrame(OpText, client)}
}

func bulkFrame(opcode byte, masked bool) []byte {
	b := make([]byte, BulkFrameSize)
	head := 4
	b[0], b[1] = finBit|opcode, 126
	if masked {
		head += 4
		b[1] |= maskBit
		copy(b[4:], "mask")
	}
	binary.BigEndian.PutUint16(b[2:], uint16(BulkFrameSize-head))
	for i := range b[head:] {
		b[head+i] = pattern[i%len(pattern)]
	}
	return b
}

// Frame is every frame but the last.
func (b Bulk) Frame() []byte { return b.frame }

// Last is the frame that ends a transfer.
func (b Bulk) Last() []byte { return b.last }

// Check compares each byte of a frame, and says whether it was the last.
func (b Bulk) Check(frame []byte) (last bool, err error) {
	switch {
	case bytes.Equal(frame, b.frame):
		return false, nil
	case bytes.Equal(frame, b.last):
		return true, nil
	}
	return false, ErrDamaged
}
