package tunnel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opPing         = 0x9
)

// wsFrame is a frame as a peer sees it: unmasked.
type wsFrame struct {
	fin     bool
	opcode  byte
	payload []byte
}

func text(payload string) wsFrame { return wsFrame{true, opText, []byte(payload)} }

func part(opcode byte, payload string) wsFrame { return wsFrame{false, opcode, []byte(payload)} }

func ping() wsFrame { return wsFrame{true, opPing, []byte("?")} }

// closing is a Close frame; code 0 stands for an empty one.
func closing(code uint16) wsFrame {
	if code == 0 {
		return wsFrame{true, opClose, nil}
	}
	return wsFrame{true, opClose, binary.BigEndian.AppendUint16(nil, code)}
}

var testKey = [4]byte{0x5a, 0xc3, 0x0f, 0x99}

// encode puts f on the wire, in the shortest form.
func (f wsFrame) encode(masked bool) []byte {
	return f.encodeAs(masked, shortestLength(len(f.payload)))
}

func shortestLength(n int) byte {
	switch {
	case n < 126:
		return byte(n)
	case n < 1<<16:
		return 126
	default:
		return 127
	}
}

// encodeAs uses the length form that length7, the 7-bit length, asks for.
func (f wsFrame) encodeAs(masked bool, length7 byte) []byte {
	first, second := f.opcode, length7
	if f.fin {
		first |= bitFin
	}
	if masked {
		second |= bitMask
	}
	b := []byte{first, second}
	switch length7 {
	case 126:
		b = binary.BigEndian.AppendUint16(b, uint16(len(f.payload)))
	case 127:
		b = binary.BigEndian.AppendUint64(b, uint64(len(f.payload)))
	}
	if masked {
		b = append(b, testKey[:]...)
	}
	at := len(b)
	b = append(b, f.payload...)
	if masked {
		for i := range f.payload {
			b[at+i] ^= testKey[i%4]
		}
	}
	return b
}

func encodeAll(masked bool, frames ...wsFrame) []byte {
	var b []byte
	for _, f := range frames {
		b = append(b, f.encode(masked)...)
	}
	return b
}

// strictReader reads frames the way a strict endpoint does: what RFC 6455 forbids
// is an error, and so is a stream that ends inside a frame.
type strictReader struct {
	r         *bufio.Reader
	masked    bool // frames must be masked: this is a server
	inMessage bool
	closed    bool
}

func newStrictReader(r io.Reader, masked bool) *strictReader {
	return &strictReader{r: bufio.NewReader(r), masked: masked}
}

func (s *strictReader) next() (f wsFrame, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(s.r, head); err != nil {
		return f, err // io.EOF only before the first byte
	}
	defer func() {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}()
	f.fin, f.opcode = head[0]&bitFin != 0, head[0]&0x0f
	if head[0]&0x70 != 0 {
		return f, fmt.Errorf("reserved bits are set: %#x", head[0])
	}
	if masked := head[1]&bitMask != 0; masked != s.masked {
		return f, fmt.Errorf("masked is %v, want %v", masked, s.masked)
	}
	length := uint64(head[1] &^ bitMask)
	extra := make([]byte, map[uint64]int{126: 2, 127: 8}[length])
	if _, err := io.ReadFull(s.r, extra); err != nil {
		return f, err
	}
	switch len(extra) {
	case 2:
		length = uint64(binary.BigEndian.Uint16(extra))
	case 8:
		length = binary.BigEndian.Uint64(extra)
	}
	var key [4]byte
	if s.masked {
		if _, err := io.ReadFull(s.r, key[:]); err != nil {
			return f, err
		}
	}
	if length > 64<<20 {
		return f, fmt.Errorf("a frame of %d bytes", length)
	}
	f.payload = make([]byte, length)
	if _, err := io.ReadFull(s.r, f.payload); err != nil {
		return f, err
	}
	for i := range f.payload {
		f.payload[i] ^= key[i%4]
	}
	return f, s.judge(f)
}

func (s *strictReader) judge(f wsFrame) error {
	switch {
	case s.closed:
		return errors.New("a frame after a Close frame")
	case f.opcode == opClose && s.inMessage:
		return errors.New("a Close frame inside a message") // legal, but not wanted here
	case f.opcode&bitControl != 0 && (!f.fin || len(f.payload) > 125):
		return errors.New("a control frame that is long or fragmented")
	case f.opcode == opContinuation && !s.inMessage:
		return errors.New("a continuation of nothing")
	case (f.opcode == opText || f.opcode == opBinary) && s.inMessage:
		return errors.New("a message inside a message")
	case f.opcode > opBinary && f.opcode != opClose && f.opcode != opPing:
		return fmt.Errorf("unexpected opcode %#x", f.opcode)
	}
	if f.opcode&bitControl == 0 {
		s.inMessage = !f.fin
	}
	s.closed = f.opcode == opClose
	return nil
}

// code is the code of a Close frame, as an endpoint reports it.
func (f wsFrame) code() int {
	if len(f.payload) < 2 {
		return closeNoStatus
	}
	return int(binary.BigEndian.Uint16(f.payload))
}

// pattern is n bytes that show where each of them belongs.
func pattern(n int) []byte {
	b := bytes.Repeat([]byte{0}, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
