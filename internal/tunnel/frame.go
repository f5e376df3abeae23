package tunnel

import (
	"crypto/rand"
	"encoding/binary"
)

// Close codes of RFC 6455, section 7.4.1.
const (
	closeGoingAway = 1001
	closeNoStatus  = 1005 // reported for a Close frame without a code; never sent
	closeAbnormal  = 1006 // reported where no Close frame was seen; never sent
)

const (
	opClose       = 0x8
	bitFin        = 0x80
	bitMask       = 0x80
	bitControl    = 0x08
	maxHeaderSize = 14 // 2 bytes, a 64-bit length, a masking key
)

// scanner follows the frame boundaries of one direction of a WebSocket
// (RFC 6455, section 5.2). It reads frame headers and the code of a Close frame,
// nothing else, and accepts whatever it is given: judging frames is for the
// peers. The zero value stands before the first frame.
type scanner struct {
	frames    uint64 // frames whose header has been read
	remaining uint64 // payload bytes of the current frame still to come
	offset    uint64 // payload bytes of the current frame already seen

	header    [maxHeaderSize]byte
	have      uint8 // bytes in header; 0 between frames
	inPayload bool
	inMessage bool    // a fragmented message awaits its final frame
	code      [2]byte // of the Close frame being read
	closeCode int     // of the first whole Close frame that has passed; 0 for none
}

// atBoundary reports whether a frame may be inserted here without cutting a
// frame or a fragmented message in two.
func (s *scanner) atBoundary() bool {
	return s.have == 0 && !s.inMessage
}

// scan advances over all of p.
func (s *scanner) scan(p []byte) {
	for len(p) > 0 {
		p = p[s.step(p):]
	}
}

// scanToBoundary advances over p up to the first boundary after its first byte,
// and returns how many bytes that took.
func (s *scanner) scanToBoundary(p []byte) int {
	n := 0
	for n < len(p) {
		n += s.step(p[n:])
		if s.atBoundary() {
			break
		}
	}
	return n
}

// step consumes the next piece of a header or payload; p is not empty.
func (s *scanner) step(p []byte) int {
	if s.inPayload {
		return s.stepPayload(p)
	}
	n := copy(s.header[s.have:s.headerSize()], p)
	s.have += uint8(n)
	if s.have == s.headerSize() {
		s.beginFrame()
	}
	return n
}

// headerSize is the size of the current header as far as the bytes read so far
// tell: the second byte decides.
func (s *scanner) headerSize() uint8 {
	size := uint8(2)
	if s.have < size {
		return size
	}
	switch s.header[1] &^ bitMask {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if s.masked() {
		size += 4
	}
	return size
}

func (s *scanner) masked() bool { return s.header[1]&bitMask != 0 }

func (s *scanner) opcode() byte { return s.header[0] & 0x0f }

func (s *scanner) beginFrame() {
	s.frames++
	s.offset = 0
	switch length := s.header[1] &^ bitMask; length {
	case 126:
		s.remaining = uint64(binary.BigEndian.Uint16(s.header[2:]))
	case 127:
		s.remaining = binary.BigEndian.Uint64(s.header[2:])
	default:
		s.remaining = uint64(length)
	}
	if s.opcode()&bitControl == 0 {
		s.inMessage = s.header[0]&bitFin == 0
	}
	s.inPayload = true
	if s.remaining == 0 {
		s.endFrame()
	}
}

func (s *scanner) stepPayload(p []byte) int {
	n := min(uint64(len(p)), s.remaining)
	if s.opcode() == opClose {
		s.readCloseCode(p[:n])
	}
	s.remaining -= n
	s.offset += n
	if s.remaining == 0 {
		s.endFrame()
	}
	return int(n)
}

func (s *scanner) readCloseCode(p []byte) {
	for i := 0; i < len(p) && s.offset+uint64(i) < 2; i++ {
		at := s.offset + uint64(i)
		s.code[at] = p[i]
		if s.masked() {
			s.code[at] ^= s.header[s.have-4+uint8(at)]
		}
	}
}

func (s *scanner) endFrame() {
	if s.opcode() == opClose && s.closeCode == 0 {
		s.closeCode = closeNoStatus
		if code := binary.BigEndian.Uint16(s.code[:]); s.offset >= 2 && code != 0 {
			s.closeCode = int(code) // a code of 0 says as little as none
		}
	}
	s.inPayload = false
	s.have = 0
}

// closeFrame returns a Close frame that carries code and no reason. A frame
// toward a server is masked with a fresh random key (RFC 6455, section 5.3).
func closeFrame(code uint16, masked bool) []byte {
	frame := []byte{bitFin | opClose, 2}
	payload := binary.BigEndian.AppendUint16(nil, code)
	if masked {
		var key [4]byte
		rand.Read(key[:]) // never fails (crypto/rand)
		frame[1] |= bitMask
		frame = append(frame, key[:]...)
		payload[0] ^= key[0]
		payload[1] ^= key[1]
	}
	return append(frame, payload...)
}
