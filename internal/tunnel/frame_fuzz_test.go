package tunnel

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// reference is what there is to know about a stream.
type reference struct {
	scanned
	boundaries []int // where a frame may be inserted, but for the beginning
}

// readAll is the reference parser: it has the whole stream before it and stops
// where that is cut off.
func readAll(stream []byte) (ref reference) {
	ref.boundary = true
	inMessage := false
	for rest := stream; len(rest) > 0; {
		ref.boundary = false
		size, length, ok := readHeader(rest)
		if !ok {
			return ref
		}
		ref.frames++
		opcode, fin := rest[0]&0x0f, rest[0]&0x80 != 0
		if opcode < 8 {
			inMessage = !fin
		}
		if length > uint64(len(rest)-size) {
			return ref
		}
		payload := slices.Clone(rest[size : size+int(length)])
		if rest[1]&0x80 != 0 {
			key := rest[size-4 : size]
			for i := range payload {
				payload[i] ^= key[i%4]
			}
		}
		if opcode == 8 && ref.closeCode == 0 {
			ref.closeCode = wstest.Frame{Payload: payload}.Code()
			if ref.closeCode == 0 {
				ref.closeCode = closeNoStatus // as meaningless as none
			}
		}
		rest = rest[size+int(length):]
		if !inMessage {
			ref.boundary = true
			ref.boundaries = append(ref.boundaries, len(stream)-len(rest))
		}
	}
	return ref
}

func readHeader(b []byte) (size int, length uint64, ok bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	extended := 0
	switch b[1] & 0x7f {
	case 126:
		extended = 2
	case 127:
		extended = 8
	}
	size = 2 + extended
	if b[1]&0x80 != 0 {
		size += 4
	}
	if len(b) < size {
		return 0, 0, false
	}
	switch extended {
	case 2:
		length = uint64(binary.BigEndian.Uint16(b[2:]))
	case 8:
		length = binary.BigEndian.Uint64(b[2:])
	default:
		length = uint64(b[1] & 0x7f)
	}
	return size, length, true
}

// FuzzScanner compares the scanner with the reference parser. Each byte of cuts is
// the size of a piece in which the stream arrives; the last one counts for the rest.
func FuzzScanner(f *testing.F) {
	for _, c := range scannerCases {
		if len(c.stream) < 1<<10 {
			f.Add(c.stream, []byte{1})
			f.Add(c.stream, []byte{3, 1, 7})
		}
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		want := readAll(stream)
		pieces := cut(stream, cuts)

		var s scanner
		for _, p := range pieces {
			s.scan(p)
		}
		if got := state(&s); got != want.scanned {
			t.Errorf("scan: got %+v, want %+v", got, want.scanned)
		}

		s = scanner{}
		var boundaries []int
		at := 0
		for _, p := range pieces {
			for len(p) > 0 {
				n := s.scanToBoundary(p)
				if n == 0 {
					t.Fatalf("scanToBoundary does not move at %d", at)
				}
				p, at = p[n:], at+n
				if s.atBoundary() {
					boundaries = append(boundaries, at)
				} else if len(p) > 0 {
					t.Fatalf("scanToBoundary stops at %d, which is no boundary", at)
				}
			}
		}
		if got := state(&s); got != want.scanned {
			t.Errorf("scanToBoundary: got %+v, want %+v", got, want.scanned)
		}
		if !slices.Equal(boundaries, want.boundaries) {
			t.Errorf("boundaries at %v, want %v", boundaries, want.boundaries)
		}
	})
}

func cut(stream, cuts []byte) [][]byte {
	var pieces [][]byte
	size := len(stream)
	for len(stream) > 0 {
		if len(cuts) > 0 {
			size, cuts = max(1, int(cuts[0])), cuts[1:]
		}
		n := min(size, len(stream))
		pieces, stream = append(pieces, stream[:n]), stream[n:]
	}
	return pieces
}

func BenchmarkScanner(b *testing.B) {
	for _, payload := range []int{0, 16, 125, 1 << 10, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("payload-%d", payload), func(b *testing.B) {
			frame := encode(true, binaryFrame(pattern(payload)))
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			var s scanner
			for b.Loop() {
				for p := frame; len(p) > 0; {
					n := min(len(p), bufferSize)
					s.scan(p[:n])
					p = p[n:]
				}
			}
			if !s.atBoundary() {
				b.Error("not at a boundary")
			}
		})
	}
}
