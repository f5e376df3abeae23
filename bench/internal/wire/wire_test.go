package wire

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

func TestMessageRoundTrip(t *testing.T) {
	var f MessageFrame
	at, id := 1234567891011*time.Nanosecond, 8999
	got, err := wstest.NewReader(bytes.NewReader(f.Encode(at, id)), true).Next()
	if err != nil || got.Opcode != wstest.Text || len(got.Payload) != MessageSize {
		t.Fatalf("%s, %v", got, err)
	}
	gotAt, gotID, err := ParseReply(AppendReply(nil, got.Payload))
	if err != nil || gotAt != at || gotID != id {
		t.Fatalf("ParseReply: %v, %d, %v", gotAt, gotID, err)
	}
}

// TestBulkFrames has both ends' frames be whole frames of one size.
func TestBulkFrames(t *testing.T) {
	for _, client := range []bool{true, false} {
		bulk := BulkFrom(client)
		for want, frame := range map[byte][]byte{wstest.Binary: bulk.Frame(), wstest.Text: bulk.Last()} {
			r := wstest.NewReader(bytes.NewReader(frame), client)
			if f, err := r.Next(); err != nil || f.Opcode != want || len(frame) != BulkFrameSize {
				t.Errorf("%d bytes, %s, %v", len(frame), f, err)
			}
			if last, err := bulk.Check(frame); err != nil || last != (want == wstest.Text) {
				t.Errorf("last %t, %v", last, err)
			}
		}
	}
}

func TestDamageIsSeen(t *testing.T) {
	p := make([]byte, MessageSize)
	for i := stampSize; i < MessageSize; i++ {
		FillMessage(p, 77*time.Second, 1)
		p[i] ^= 1
		if _, _, err := ParseReply(AppendReply(nil, p)); err != ErrDamaged {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
	if _, _, err := ParseReply(AppendReply(nil, p[:100])); err != ErrDamaged {
		t.Errorf("a short message: %v", err)
	}
	if _, _, err := ParseReply([]byte("ok")); err == nil {
		t.Error("a short reply passed")
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
