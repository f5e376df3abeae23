package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
)

// Opcodes of RFC 6455, section 5.2.
const (
	OpText   = 1
	opBinary = 2
)

const (
	finBit  = 0x80
	maskBit = 0x80
)

var errFrame = errors.New("a frame nobody here sends")

// MessageFrame is the reusable memory of one client's text frame.
type MessageFrame struct {
	buf [messageHeader + MessageSize]byte
}

// messageHeader is two bytes, a 16-bit length and the masking key.
const messageHeader = 8

// Message is where the caller writes the unmasked message.
func (f *MessageFrame) Message() []byte { return f.buf[messageHeader:] }

// Seal masks the message and returns the frame, ready to send.
func (f *MessageFrame) Seal(key uint32) []byte {
	f.buf[0] = finBit | OpText
	f.buf[1] = maskBit | 126
	binary.BigEndian.PutUint16(f.buf[2:], MessageSize)
	binary.LittleEndian.PutUint32(f.buf[4:], key)
	mask(f.Message(), key)
	return f.buf[:]
}

// AppendTextFrame appends an unmasked text frame, as a server sends it.
func AppendTextFrame(b, payload []byte) []byte {
	b = append(b, finBit|OpText)
	if len(payload) < 126 {
		b = append(b, byte(len(payload)))
	} else {
		b = append(b, 126)
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	}
	return append(b, payload...)
}

// ReadFrame reads one unfragmented frame and returns its opcode and its
// unmasked payload, which lies in r's buffer and is valid until r is next
// read. A frame must fit into that buffer.
func ReadFrame(r *bufio.Reader) (opcode byte, payload []byte, err error) {
	b, err := r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	first, masked, length, size := b[0], b[1]&maskBit != 0, int(b[1]&0x7f), 2
	if first&finBit == 0 || length == 127 {
		return 0, nil, errFrame
	}
	if length == 126 {
		size += 2
		if b, err = r.Peek(size); err != nil {
			return 0, nil, err
		}
		length = int(binary.BigEndian.Uint16(b[2:]))
	}
	if masked {
		size += 4
	}
	if b, err = r.Peek(size + length); err != nil {
		return 0, nil, err
	}
	payload = b[size:]
	if masked {
		mask(payload, binary.LittleEndian.Uint32(b[size-4:]))
	}
	_, err = r.Discard(size + length)
	return first & 0x0f, payload, err
}

// mask applies the key, as it stands on the wire read as little endian.
func mask(p []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(key >> (8 * (i % 4)))
	}
}

// AppendMaskedFrame appends a short frame as a client sends it, with a masking
// key of zero, which leaves the payload as it is.
func AppendMaskedFrame(b []byte, opcode byte, payload []byte) []byte {
	b = append(b, finBit|opcode, maskBit|byte(len(payload)), 0, 0, 0, 0)
	return append(b, payload...)
}
