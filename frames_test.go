package watchrtcproxy

import (
	"bufio"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"
)

// Opcodes and bits of RFC 6455, section 5.2.
const (
	opText, opBinary, opClose, opPing = 0x1, 0x2, 0x8, 0x9
	bitFin, bitRSV1, bitMask          = 0x80, 0x40, 0x80
)

// frame returns a frame with first as its first byte. A masked one has some key; the
// payload is taken for masked already.
func frame(first byte, masked bool, payload []byte) string {
	head := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		head[1] = byte(n)
	case n < 1<<16:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	if masked {
		head[1] |= bitMask
		head = binary.BigEndian.AppendUint32(head, rand.Uint32())
	}
	return string(append(head, payload...))
}

// closeFrameOf is a Close frame with a code, masked with a key of zeros.
func closeFrameOf(code uint16, masked bool) string {
	f := frame(bitFin|opClose, masked, binary.BigEndian.AppendUint16(nil, code))
	if !masked {
		return f
	}
	return f[:2] + "\x00\x00\x00\x00" + f[6:]
}

// readClose reads one frame, which must be a Close frame, and returns its code.
func readClose(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Errorf("no Close frame: %v", err)
		return 0
	}
	key, payload := make([]byte, 4), make([]byte, 2)
	masked := head[1]&bitMask != 0
	if head[0] != bitFin|opClose || head[1]&^bitMask != 2 {
		t.Errorf("frame %x, want a Close frame with a code", head)
		return 0
	}
	if masked {
		io.ReadFull(r, key)
	}
	if _, err := io.ReadFull(r, payload); err != nil {
		t.Errorf("reading a Close frame: %v", err)
	}
	for i := range payload {
		payload[i] ^= key[i]
	}
	return int(binary.BigEndian.Uint16(payload))
}

// randomBytes returns n bytes that are the same in each run.
func randomBytes(n int) []byte {
	p := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(p)
	return p
}
