package tunnel

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// scanned is what a scanner has to say at some place of a stream.
type scanned struct {
	frames    uint64
	boundary  bool
	closeCode int
}

func state(s *scanner) scanned { return scanned{s.frames, s.atBoundary(), s.closeCode} }

var scannerCases = []struct {
	name   string
	stream []byte
	want   scanned
}{
	{"nothing", nil, scanned{0, true, 0}},
	{"one byte of a header", []byte{0x81}, scanned{0, false, 0}},
	{"a header without its 16-bit length", []byte{0x81, 126, 0}, scanned{0, false, 0}},
	{"a header without its mask", []byte{0x81, 0x80 | 5, 1, 2, 3}, scanned{0, false, 0}},
	{"a header alone", []byte{0x81, 5}, scanned{1, false, 0}},

	{"unmasked", encode(false, wstest.Message("hello")), scanned{1, true, 0}},
	{"masked", encode(true, wstest.Message("hello")), scanned{1, true, 0}},
	{"empty", encode(false, wstest.Message("")), scanned{1, true, 0}},
	{"empty, masked", encode(true, wstest.Message("")), scanned{1, true, 0}},
	{"empty, 16-bit length", wstest.Message("").AppendForm(nil, false, wstest.Form16), scanned{1, true, 0}},
	{"empty, 64-bit length, masked", wstest.Message("").AppendForm(nil, true, wstest.Form64), scanned{1, true, 0}},
	{"125 bytes", encode(false, wstest.Message(strings.Repeat("x", 125))), scanned{1, true, 0}},
	{"126 bytes", encode(false, wstest.Message(strings.Repeat("x", 126))), scanned{1, true, 0}},
	{"126 bytes, masked", encode(true, wstest.Message(strings.Repeat("x", 126))), scanned{1, true, 0}},
	{"65535 bytes", encode(false, wstest.Message(strings.Repeat("x", 65535))), scanned{1, true, 0}},
	{"65536 bytes", encode(false, wstest.Message(strings.Repeat("x", 65536))), scanned{1, true, 0}},
	{"65536 bytes, masked", encode(true, wstest.Message(strings.Repeat("x", 65536))), scanned{1, true, 0}},
	{"longer form than needed", wstest.Message("hi").AppendForm(nil, true, wstest.Form64), scanned{1, true, 0}},
	{"the largest legal length", []byte{0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1}, scanned{1, false, 0}},
	{"a length with its top bit set", []byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1}, scanned{1, false, 0}},
	{"the largest length", append([]byte{0x82, 127}, bytes.Repeat([]byte{255}, 200)...), scanned{1, false, 0}},

	{"a fragment", encode(false, part(wstest.Text, "a")), scanned{1, false, 0}},
	{"an empty fragment", encode(true, part(wstest.Text, "")), scanned{1, false, 0}},
	{
		"fragments with control frames between them",
		encode(true, part(wstest.Text, "a"), ping(), part(wstest.Continuation, "b"), ping()),
		scanned{4, false, 0},
	},
	{
		"fragments and their end",
		encode(true, part(wstest.Text, "a"), ping(), part(wstest.Continuation, "b"), last("")),
		scanned{4, true, 0},
	},
	{"reserved bits and opcodes", append([]byte{0xf3, 1, 'x'}, 0xff, 0), scanned{2, true, 0}},

	{"Close with a code", encode(false, wstest.CloseFrame(1000)), scanned{1, true, 1000}},
	{"Close with a code, masked", encode(true, wstest.CloseFrame(4999)), scanned{1, true, 4999}},
	{"Close with a code and a reason", encode(true, wstest.Frame{Fin: true, Opcode: opClose, Payload: []byte("\x03\xf3because")}), scanned{1, true, 1011}},
	{"Close, 16-bit length, masked", wstest.CloseFrame(1001).AppendForm(nil, true, wstest.Form16), scanned{1, true, 1001}},
	{"Close, 64-bit length, masked", wstest.CloseFrame(1001).AppendForm(nil, true, wstest.Form64), scanned{1, true, 1001}},
	{"Close without a code", encode(false, wstest.CloseFrame(0)), scanned{1, true, closeNoStatus}},
	{"Close without a code, masked", encode(true, wstest.CloseFrame(0)), scanned{1, true, closeNoStatus}},
	{"Close with half a code", encode(true, wstest.Frame{Fin: true, Opcode: opClose, Payload: []byte{3}}), scanned{1, true, closeNoStatus}},
	{"Close with the code 0", encode(true, wstest.Frame{Fin: true, Opcode: opClose, Payload: []byte{0, 0}}), scanned{1, true, closeNoStatus}},
	{"Close after messages", encode(true, wstest.Message("a"), wstest.Message("b"), wstest.CloseFrame(1000)), scanned{3, true, 1000}},
	{"Close inside a message", encode(true, part(wstest.Text, "a"), wstest.CloseFrame(1000)), scanned{2, false, 1000}},
	{"the first Close counts", encode(false, wstest.CloseFrame(1000), wstest.CloseFrame(1001)), scanned{2, true, 1000}},
	{"the first Close counts, without a code", encode(false, wstest.CloseFrame(0), wstest.CloseFrame(1001)), scanned{2, true, closeNoStatus}},
	{"a Close frame's first byte", encode(true, wstest.CloseFrame(1000))[:7], scanned{1, false, 0}},
}

func TestScanner(t *testing.T) {
	for _, c := range scannerCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var whole scanner
			whole.scan(c.stream)
			if got := state(&whole); got != c.want {
				t.Errorf("whole: got %+v, want %+v", got, c.want)
			}
			var bytewise scanner
			for i := range c.stream {
				bytewise.scan(c.stream[i : i+1])
			}
			if got := state(&bytewise); got != c.want {
				t.Errorf("byte by byte: got %+v, want %+v", got, c.want)
			}
			for cut := range min(len(c.stream), 300) {
				var s scanner
				s.scan(c.stream[:cut])
				s.scan(c.stream[cut:])
				if got := state(&s); got != c.want {
					t.Errorf("cut at %d: got %+v, want %+v", cut, got, c.want)
				}
			}
			if ref := readAll(c.stream); ref.scanned != c.want {
				t.Errorf("the reference parser has %+v, want %+v", ref.scanned, c.want)
			}
		})
	}
}

// Boundaries are only where a whole message, or a control frame outside of one,
// has ended.
func TestScanToBoundary(t *testing.T) {
	stream := encode(true,
		wstest.Message("one"),            // 9 bytes
		part(wstest.Text, "two"), ping(), // 9, 7
		last("three"),           // 11
		ping(),                  // 7
		wstest.Message(""),      // 6
		wstest.CloseFrame(1000), // 8
	)
	want := []int{9, 36, 43, 49, 57}
	for size := 1; size <= len(stream); size++ {
		var got []int
		var s scanner
		for at := 0; at < len(stream); {
			at += s.scanToBoundary(stream[at:min(at+size, len(stream))])
			if s.atBoundary() {
				got = append(got, at)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pieces of %d bytes: boundaries at %v, want %v", size, got, want)
		}
	}
	var s scanner
	if n := s.scanToBoundary(nil); n != 0 || !s.atBoundary() {
		t.Errorf("nothing: %d bytes, at a boundary %v", n, s.atBoundary())
	}
}

func TestCloseFrame(t *testing.T) {
	keys := make(map[string]bool)
	for _, masked := range []bool{false, true} {
		for _, code := range []uint16{1000, closeGoingAway, 4999} {
			frame := closeFrame(code, masked)
			r := wstest.NewReader(bytes.NewReader(frame), masked)
			f, err := r.Next()
			if err != nil || f.Opcode != opClose || !f.Fin || f.Code() != int(code) || len(f.Payload) != 2 {
				t.Errorf("closeFrame(%d, %v) = %x: %+v, %v", code, masked, frame, f, err)
			}
			var s scanner
			s.scan(frame)
			if got, want := state(&s), (scanned{1, true, int(code)}); got != want {
				t.Errorf("closeFrame(%d, %v) scans as %+v, want %+v", code, masked, got, want)
			}
			if masked {
				keys[string(frame[2:6])] = true
			}
		}
	}
	if len(keys) < 2 {
		t.Error("each masked frame needs a key of its own")
	}
}
