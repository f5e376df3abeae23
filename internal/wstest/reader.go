package wstest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxPayload bounds the payload of a frame that a Reader takes, in bytes. No test
// sends more, so a longer one is a length that was misread.
const MaxPayload = 64 << 20

// Reader reads frames as a strict endpoint does. What RFC 6455 forbids is an error,
// so a frame inside another, a byte that is lost or comes twice, and a stream that
// ends too early cannot go unseen.
type Reader struct {
	// InMessage and Closed say where the stream is: inside a fragmented message,
	// after a Close frame.
	InMessage, Closed bool

	// Reuse has Next return a payload that the next call overwrites.
	Reuse bool

	// AllowCloseInMessage takes a Close frame inside a fragmented message. RFC 6455
	// allows it to an endpoint, but what it interrupts is lost, so a proxy must not
	// put one there.
	AllowCloseInMessage bool

	r       *bufio.Reader
	masked  bool
	payload []byte
}

// NewReader returns a Reader of r. Frames must be masked or must not: what a client
// sends is masked. r may be a *bufio.Reader that has read ahead.
func NewReader(r io.Reader, masked bool) *Reader {
	buffered, ok := r.(*bufio.Reader)
	if !ok {
		buffered = bufio.NewReader(r)
	}
	return &Reader{r: buffered, masked: masked}
}

// Next returns the next frame. io.EOF means that the stream ended between two
// messages; anywhere else its end is io.ErrUnexpectedEOF, and what had come of the
// frame's payload is returned too.
func (r *Reader) Next() (Frame, error) {
	head, err := r.r.Peek(2)
	if err == io.EOF && len(head) == 0 && !r.InMessage {
		return Frame{}, io.EOF
	}
	if err != nil {
		return Frame{}, unexpected(err)
	}
	f := Frame{Fin: head[0]&bitFin != 0, RSV: head[0] & bitsRSV, Opcode: head[0] & 0x0f}
	if err := r.check(f, head[1]); err != nil {
		return f, fmt.Errorf("frame %x: %w", head, err)
	}
	if f.Payload, err = r.readPayload(head[1] &^ bitMask); err != nil {
		return f, unexpected(err)
	}
	if !f.IsControl() {
		r.InMessage = !f.Fin
	}
	r.Closed = f.Opcode == Close
	return f, nil
}

func (r *Reader) check(f Frame, second byte) error {
	switch {
	case r.Closed:
		return errors.New("it comes after a Close frame")
	case f.RSV != 0:
		return errors.New("reserved bits are set")
	case (second&bitMask != 0) != r.masked:
		return fmt.Errorf("masked is %t, want %t", !r.masked, r.masked)
	case f.Opcode > Binary && f.Opcode < Close || f.Opcode > Pong:
		return errors.New("the opcode is reserved")
	case f.IsControl() && (!f.Fin || second&^bitMask > 125):
		return errors.New("a control frame is fragmented or too long")
	case f.Opcode == Continuation && !r.InMessage:
		return errors.New("a continuation of nothing")
	case !f.IsControl() && f.Opcode != Continuation && r.InMessage:
		return errors.New("a message inside a message")
	case f.Opcode == Close && r.InMessage && !r.AllowCloseInMessage:
		return errors.New("a Close frame inside a message")
	}
	return nil
}

// readPayload reads what follows the first two bytes, of which length7 is the
// length of seven bits.
func (r *Reader) readPayload(length7 byte) ([]byte, error) {
	size := 2
	switch length7 {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	lengthEnd := size
	if r.masked {
		size += 4
	}
	head, err := r.r.Peek(size)
	if err != nil {
		return nil, err
	}
	length := uint64(length7)
	switch length7 {
	case 126:
		length = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		length = binary.BigEndian.Uint64(head[2:])
	}
	if length7 == 126 && length < 126 || length7 == 127 && length < 1<<16 {
		return nil, fmt.Errorf("a length of %d is not in its shortest form", length)
	}
	if length > MaxPayload {
		return nil, fmt.Errorf("a frame of %d bytes", length)
	}
	var key [4]byte
	copy(key[:], head[lengthEnd:])
	if _, err := r.r.Discard(size); err != nil {
		return nil, err
	}
	payload := r.buffer(int(length))
	n, err := io.ReadFull(r.r, payload)
	Mask(payload[:n], key)
	return payload[:n], err
}

func (r *Reader) buffer(n int) []byte {
	if !r.Reuse {
		return make([]byte, n)
	}
	if cap(r.payload) < n {
		r.payload = make([]byte, n)
	}
	return r.payload[:n]
}

// NextMessage returns the next whole message, put together of its frames, or a Close
// frame. It passes over Pings and Pongs.
func (r *Reader) NextMessage() (Frame, error) {
	var whole Frame
	for {
		f, err := r.Next()
		switch {
		case err != nil || f.Opcode == Close:
			return f, err
		case f.IsControl():
			continue
		case f.Opcode != Continuation:
			whole.Opcode = f.Opcode
		}
		whole.Payload = append(whole.Payload, f.Payload...)
		if f.Fin {
			whole.Fin = true
			return whole, nil
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
