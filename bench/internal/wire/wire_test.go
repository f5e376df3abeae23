package wire

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestMessageRoundTrip(t *testing.T) {
	var f MessageFrame
	at, id := 1234567891011*time.Nanosecond, 8999
	FillMessage(f.Message(), at, id)
	r := bufio.NewReaderSize(bytes.NewReader(f.Seal(0x9a3c5fe1)), 8<<10)
	op, p, err := ReadFrame(r)
	if err != nil || op != OpText || len(p) != MessageSize {
		t.Fatalf("ReadFrame: opcode %d, %d bytes, %v", op, len(p), err)
	}
	gotAt, gotID, err := ParseAnswer(AppendAnswer(nil, p))
	if err != nil || gotAt != at || gotID != id {
		t.Fatalf("ParseAnswer: %v, %d, %v", gotAt, gotID, err)
	}
}

func TestDamageIsSeen(t *testing.T) {
	p := make([]byte, MessageSize)
	for i := stampSize; i < MessageSize; i++ {
		FillMessage(p, 77*time.Second, 1)
		p[i] ^= 1
		if _, _, err := ParseAnswer(AppendAnswer(nil, p)); err != ErrDamaged {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	if _, _, err := ParseAnswer(AppendAnswer(nil, p[:100])); err != ErrDamaged {
		t.Errorf("a short message: %v", err)
	}
	if _, _, err := ParseAnswer([]byte("ok")); err == nil {
		t.Error("a short answer passed")
	}
}

// TestMask compares with the byte-wise rule of RFC 6455, section 5.3.
func TestMask(t *testing.T) {
	key := [4]byte{0x12, 0x34, 0x56, 0x78}
	for size := range 30 {
		got := make([]byte, size)
		mask(got, 0x78563412)
		for i, b := range got {
			if b != key[i%4] {
				t.Fatalf("size %d: byte %d is %#x, not %#x", size, i, b, key[i%4])
			}
		}
	}
}

func TestTextFrame(t *testing.T) {
	for _, size := range []int{0, 20, 125, 126, 300} {
		want := strings.Repeat("x", size)
		r := bufio.NewReaderSize(bytes.NewReader(AppendTextFrame(nil, []byte(want))), 512)
		if _, got, err := ReadFrame(r); err != nil || string(got) != want {
			t.Errorf("size %d: %q, %v", size, got, err)
		}
	}
}

func TestHead(t *testing.T) {
	in := "HTTP/1.1 200 OK\r\ncontent-length: 20\r\nX-Content-Length: 7\r\n\r\nbody"
	r := bufio.NewReader(strings.NewReader(in))
	head, err := ReadHead(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(Field(head, "Content-Length")); got != "20" {
		t.Errorf("Content-Length %q", got)
	}
	if Field(head, "Length") != nil {
		t.Error("found a field that isn't there")
	}
	if rest, _ := r.Peek(4); string(rest) != "body" {
		t.Errorf("left %q", rest)
	}
}

// TestAcceptKey uses the example of RFC 6455, section 1.3.
func TestAcceptKey(t *testing.T) {
	if got := AcceptKey([]byte("dGhlIHNhbXBsZSBub25jZQ==")); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
}
