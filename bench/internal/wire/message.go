// Package wire holds what the load generator and the relay agree on: the
// messages, the relay's replies, and just enough HTTP to carry them; the frames
// are wstest's. Both ends share the machine with the proxies they measure, so
// nothing here allocates per message.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const (
	// MessageSize is that of one compressed statistics frame of the SDK.
	MessageSize = 4096
	// ReplySize is the length of the relay's reply to each message.
	ReplySize = stampSize + len(intact)

	stampSize  = timeDigits + idDigits
	timeDigits = 12
	idDigits   = 6
	// rotations is how many different bodies there are: enough that a
	// message cut short or mixed up with another doesn't pass for whole.
	rotations = 4099
)

const (
	intact  = "ok"
	damaged = "no"
)

// ErrDamaged means that other bytes were received than were sent.
var ErrDamaged = errors.New("a message arrived damaged")

var pattern = makePattern(MessageSize - stampSize + rotations)

// makePattern returns printable text without a period, as messages are text
// frames, and a period could hide a shift.
func makePattern(size int) []byte {
	p := make([]byte, size)
	state := uint32(1)
	for i := range p {
		state = state*1664525 + 1013904223
		p[i] = 'A' + byte(state>>24)%58
	}
	return p
}

// body returns what follows the stamp in a message sent at the given time.
func body(at time.Duration) []byte {
	from := int(at % rotations)
	return pattern[from : from+MessageSize-stampSize]
}

// MessageFrame is the reusable memory of one client's messages.
type MessageFrame struct {
	message [MessageSize]byte
	frame   []byte
}

// Encode returns the message that FillMessage makes as a masked text frame. It
// is valid until the next call.
func (f *MessageFrame) Encode(at time.Duration, id int) []byte {
	FillMessage(f.message[:], at, id)
	f.frame = wstest.Frame{Fin: true, Opcode: wstest.Text, Payload: f.message[:]}.AppendTo(f.frame[:0], true)
	return f.frame
}

// FillMessage writes into p, of MessageSize bytes, the message of tunnel id
// sent at the given time. The relay sends both back, so the round trip needs
// no bookkeeping.
func FillMessage(p []byte, at time.Duration, id int) {
	putHex(p[:timeDigits], uint64(at))
	putHex(p[timeDigits:stampSize], uint64(id))
	copy(p[stampSize:], body(at))
}

// AppendReply appends the relay's reply to message p, which says whether each
// byte of it is as FillMessage wrote it.
func AppendReply(b, p []byte) []byte {
	if len(p) != MessageSize {
		return append(append(b, make([]byte, stampSize)...), damaged...)
	}
	b = append(b, p[:stampSize]...)
	at, err := parseHex(p[:timeDigits])
	if err != nil || !bytes.Equal(p[stampSize:], body(time.Duration(at))) {
		return append(b, damaged...)
	}
	return append(b, intact...)
}

// ParseReply returns when and by which tunnel the message was sent.
func ParseReply(p []byte) (at time.Duration, id int, err error) {
	if len(p) != ReplySize {
		return 0, 0, fmt.Errorf("a reply of %d bytes, not %d: %q", len(p), ReplySize, p)
	}
	if string(p[stampSize:]) != intact {
		return 0, 0, ErrDamaged
	}
	t, err := parseHex(p[:timeDigits])
	if err != nil {
		return 0, 0, err
	}
	n, err := parseHex(p[timeDigits:stampSize])
	return time.Duration(t), int(n), err
}

func putHex(p []byte, v uint64) {
	for i := len(p) - 1; i >= 0; i-- {
		p[i] = "0123456789abcdef"[v&15]
		v >>= 4
	}
}

func parseHex(p []byte) (uint64, error) {
	return strconv.ParseUint(string(p), 16, 64)
}
