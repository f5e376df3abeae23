package wire

import (
	"bytes"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// BulkFrameSize is that of each frame of a bulk transfer, head and all: one
// full TLS record.
const BulkFrameSize = 16 << 10

// What a client sends as its first message to have a bulk transfer.
const (
	BulkUp   = "bulk up"
	BulkDown = "bulk down " // and for how many milliseconds
)

// Bulk is one frame, made once and sent over and over, so that neither end spends time
// on anything but carrying it.
type Bulk struct {
	frame, last []byte
}

// BulkFrom returns the frames that a client sends, which are masked, or a relay.
func BulkFrom(client bool) Bulk {
	return Bulk{bulkFrame(wstest.Binary, client), bulkFrame(wstest.Text, client)}
}

func bulkFrame(opcode byte, client bool) []byte {
	f := wstest.Frame{Fin: true, Opcode: opcode, Payload: make([]byte, BulkFrameSize-4)}
	if client {
		f.Payload = f.Payload[4:] // room for the masking key
	}
	for i := range f.Payload {
		f.Payload[i] = pattern[i%len(pattern)]
	}
	if client {
		return f.AppendMasked(nil, [4]byte([]byte("mask")))
	}
	return f.AppendTo(nil, false)
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
