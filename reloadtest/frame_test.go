//go:build unix

package reloadtest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8

	goingAway = 1001
)

// frame is a WebSocket frame, unmasked (RFC 6455, section 5.2).
type frame struct {
	fin     bool
	opcode  byte
	payload []byte
}

func closing(code uint16) frame {
	return frame{fin: true, opcode: opClose, payload: binary.BigEndian.AppendUint16(nil, code)}
}

// code of a Close frame; 1005 where it has none.
func (f frame) code() int {
	if len(f.payload) < 2 {
		return 1005
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

// encode puts f on the wire.
func (f frame) encode(masked bool) []byte {
	b := []byte{f.opcode, 0}
	if f.fin {
		b[0] |= 0x80
	}
	switch n := len(f.payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !masked {
		return append(b, f.payload...)
	}
	b[1] |= 0x80
	key := rand.Uint32()
	b = binary.BigEndian.AppendUint32(b, key)
	at := len(b)
	b = append(b, f.payload...)
	mask(b[at:], key)
	return b
}

func mask(p []byte, key uint32) {
	for i := range p {
		p[i] ^= byte(key >> (24 - 8*(i%4)))
	}
}

// strictReader reads frames as a strict endpoint does: whatever RFC 6455 forbids
// is an error, so a Close frame inside of a frame or a fragmented message, bytes
// that are lost or repeated, and a stream that ends too early cannot go unseen.
type strictReader struct {
	*bufio.Reader
	masked    bool // frames must be: this end is the server
	inMessage bool
	closed    bool
}

func (r *strictReader) next() (f frame, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if err == io.EOF && r.inMessage {
			err = io.ErrUnexpectedEOF
		}
		return f, err // io.EOF only between messages
	}
	f = frame{fin: head[0]&0x80 != 0, opcode: head[0] & 0x0f}
	if err := r.check(f, head); err != nil {
		return f, err
	}
	if f.payload, err = r.payload(head[1] & 0x7f); err != nil {
		return f, fmt.Errorf("inside of a frame: %w", noEOF(err))
	}
	if f.opcode&0x8 == 0 {
		r.inMessage = !f.fin
	}
	r.closed = f.opcode == opClose
	return f, nil
}

func (r *strictReader) check(f frame, head [2]byte) error {
	control := f.opcode&0x8 != 0
	switch {
	case r.closed:
		return fmt.Errorf("frame %x after the Close frame", head)
	case head[0]&0x70 != 0:
		return fmt.Errorf("frame %x: reserved bits are set", head)
	case (head[1]&0x80 != 0) != r.masked:
		return fmt.Errorf("frame %x: masked is not %t", head, r.masked)
	case f.opcode > opBinary && f.opcode < opClose || f.opcode > 0xa:
		return fmt.Errorf("frame %x: unknown opcode", head)
	case control && (!f.fin || head[1]&0x7f > 125):
		return fmt.Errorf("frame %x: a control frame that is fragmented or too long", head)
	case !control && r.inMessage != (f.opcode == opContinuation):
		return fmt.Errorf("frame %x: inside of a message: %t", head, r.inMessage)
	case f.opcode == opClose && r.inMessage:
		// Allowed, but the message it interrupts would never be finished.
		return fmt.Errorf("frame %x: a Close frame inside of a message", head)
	}
	return nil
}

func (r *strictReader) payload(length7 byte) ([]byte, error) {
	length := uint64(length7)
	var more [8]byte
	switch length7 {
	case 126:
		if _, err := io.ReadFull(r, more[:2]); err != nil {
			return nil, err
		}
		length = uint64(binary.BigEndian.Uint16(more[:]))
	case 127:
		if _, err := io.ReadFull(r, more[:]); err != nil {
			return nil, err
		}
		length = binary.BigEndian.Uint64(more[:])
	}
	if length > 1<<20 {
		return nil, fmt.Errorf("a frame of %d bytes, which nobody here sends", length)
	}
	var key uint32
	if r.masked {
		if _, err := io.ReadFull(r, more[:4]); err != nil {
			return nil, err
		}
		key = binary.BigEndian.Uint32(more[:])
	}
	p := make([]byte, length)
	_, err := io.ReadFull(r, p)
	mask(p, key)
	return p, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A message says whose it is and which: an endpoint that gets the wrong one, or
// one that is changed anywhere, knows. Each size from tiny to large is its own.
const messageHeader = 16

// message is the seq-th that the peer with this id sends, of size bytes.
func message(id, seq uint64, size int) []byte {
	p := binary.BigEndian.AppendUint64(make([]byte, 0, size), id)
	p = binary.BigEndian.AppendUint64(p, seq)
	for len(p) < size {
		p = append(p, byte(id)^byte(seq)^byte(len(p)))
	}
	return p
}

// checkMessage says what is wrong with p as the seq-th message of id.
func checkMessage(p []byte, id, seq uint64) error {
	if len(p) < messageHeader {
		return fmt.Errorf("a message of %d bytes", len(p))
	}
	gotID, gotSeq := binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
	if gotID != id || gotSeq != seq {
		return fmt.Errorf("message %d of %d, want %d of %d", gotSeq, gotID, seq, id)
	}
	for i, b := range p[messageHeader:] {
		if b != byte(id)^byte(seq)^byte(messageHeader+i) {
			return fmt.Errorf("message %d of %d is wrong at byte %d of %d", seq, id, messageHeader+i, len(p))
		}
	}
	return nil
}

// fragments cuts a message into n frames.
func fragments(p []byte, n int) []frame {
	var fs []frame
	for i := range n {
		f := frame{fin: i == n-1, opcode: opContinuation, payload: p[len(p)*i/n : len(p)*(i+1)/n]}
		if i == 0 {
			f.opcode = opBinary
		}
		fs = append(fs, f)
	}
	return fs
}
