package wstest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// Opcodes (RFC 6455, section 5.2).
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// Close codes (RFC 6455, section 7.4.1). The last two never stand in a frame.
const (
	NormalClosure = 1000
	GoingAway     = 1001
	NoStatus      = 1005 // a Close frame without a code
	Abnormal      = 1006 // no Close frame
)

const (
	bitFin     = 0x80
	bitsRSV    = 0x70
	bitControl = 0x08
	bitMask    = 0x80
)

// Frame is a WebSocket frame as its reader sees it: without its mask.
type Frame struct {
	Fin     bool
	RSV     byte // the three reserved bits, where they are in the first byte: 0x40, 0x20, 0x10
	Opcode  byte
	Payload []byte
}

// Message returns an unfragmented text frame.
func Message(payload string) Frame { return Frame{Fin: true, Opcode: Text, Payload: []byte(payload)} }

// CloseFrame returns a Close frame. Code 0 stands for one without a payload.
func CloseFrame(code int, reason ...string) Frame {
	f := Frame{Fin: true, Opcode: Close}
	if code != 0 {
		f.Payload = binary.BigEndian.AppendUint16(nil, uint16(code))
	}
	for _, text := range reason {
		f.Payload = append(f.Payload, text...)
	}
	return f
}

// Fragments cuts a message into n frames of about the same size, the first with
// opcode.
func Fragments(opcode byte, message []byte, n int) []Frame {
	frames := make([]Frame, n)
	for i := range frames {
		frames[i] = Frame{Fin: i == n-1, Payload: message[len(message)*i/n : len(message)*(i+1)/n]}
	}
	frames[0].Opcode = opcode
	return frames
}

// IsControl reports whether f is a Close, a Ping, a Pong, or one of the opcodes that
// are reserved for such.
func (f Frame) IsControl() bool { return f.Opcode&bitControl != 0 }

// Code returns the code of a Close frame, NoStatus where it has none.
func (f Frame) Code() int {
	if len(f.Payload) < 2 {
		return NoStatus
	}
	return int(binary.BigEndian.Uint16(f.Payload))
}

// String shows the beginning of f, for errors.
func (f Frame) String() string {
	return fmt.Sprintf("{fin %t, rsv %#x, opcode %#x, %d bytes %.20q}", f.Fin, f.RSV, f.Opcode, len(f.Payload), f.Payload)
}

// Form is how a frame's length is written (RFC 6455, section 5.2).
type Form int

const (
	Shortest Form = iota // as the RFC demands
	Form7                // seven bits
	Form16               // sixteen more bits
	Form64               // sixty-four more bits
)

// AppendTo appends f to b as it goes over the wire, masked with a random key as a
// client must, or unmasked as a server must. It allocates only what b lacks.
func (f Frame) AppendTo(b []byte, masked bool) []byte {
	if !masked {
		return f.append(b, nil, Shortest)
	}
	var key [4]byte
	binary.BigEndian.PutUint32(key[:], rand.Uint32())
	return f.append(b, &key, Shortest)
}

// AppendMasked is AppendTo with a key of the caller's. With a key of zeros the
// payload reads on the wire as it is.
func (f Frame) AppendMasked(b []byte, key [4]byte) []byte { return f.append(b, &key, Shortest) }

// AppendForm is AppendTo with a length in a form of the caller's. Forms that do not
// have room for the length cut it off.
func (f Frame) AppendForm(b []byte, masked bool, form Form) []byte {
	if !masked {
		return f.append(b, nil, form)
	}
	key := [4]byte{0x5a, 0xc3, 0x0f, 0x99}
	return f.append(b, &key, form)
}

// Encode returns frames one after another as they go over the wire.
func Encode(masked bool, frames ...Frame) []byte {
	var b []byte
	for _, f := range frames {
		b = f.AppendTo(b, masked)
	}
	return b
}

func (f Frame) append(b []byte, key *[4]byte, form Form) []byte {
	first, second := f.Opcode|f.RSV, byte(0)
	if f.Fin {
		first |= bitFin
	}
	if key != nil {
		second |= bitMask
	}
	n := len(f.Payload)
	if form == Shortest {
		form = shortest(n)
	}
	switch form {
	case Form7:
		b = append(b, first, second|byte(n&0x7f))
	case Form16:
		b = binary.BigEndian.AppendUint16(append(b, first, second|126), uint16(n))
	case Form64:
		b = binary.BigEndian.AppendUint64(append(b, first, second|127), uint64(n))
	}
	if key == nil {
		return append(b, f.Payload...)
	}
	b = append(b, key[:]...)
	at := len(b)
	b = append(b, f.Payload...)
	Mask(b[at:], *key)
	return b
}

func shortest(n int) Form {
	switch {
	case n < 126:
		return Form7
	case n < 1<<16:
		return Form16
	default:
		return Form64
	}
}

// Mask applies a masking key to the beginning of a payload. To apply it again undoes
// it (RFC 6455, section 5.3).
func Mask(payload []byte, key [4]byte) {
	// Eight bytes at a time: load generators mask all that they send.
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(payload) >= 8 {
		binary.LittleEndian.PutUint64(payload, binary.LittleEndian.Uint64(payload)^k)
		payload = payload[8:]
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
}
