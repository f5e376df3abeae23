// Package lzstring expands what the SDK compresses: LZ-string in the form called
// "encoded URI component", an LZ78 variant over UTF-16 code units whose bits are
// written six to a character.
package lzstring

import (
	"errors"
	"math/bits"
	"strings"
	"unicode/utf16"
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"

// Codes below firstPhrase have a meaning of their own.
const (
	unit8  = iota // a new unit, of 8 bits, follows
	unit16        // likewise of 16
	end
	firstPhrase
)

var (
	// ErrCorrupt says that the input is something else.
	ErrCorrupt = errors.New("not LZ-string data")
	// ErrTruncated comes with the text so far.
	ErrTruncated = errors.New("LZ-string data cut short")
)

// phrase is an entry of the dictionary: an earlier phrase and one more unit.
// Phrases stay linked rather than spelled out, so that memory grows with the
// input and not with its square.
type phrase struct {
	prefix      int // code of the earlier phrase, 0 for none
	length      int
	first, last uint16
}

type reader struct {
	src  string
	char int // the character bits come from, and how many of them are left
	left int
	dict []phrase // by code
	out  []uint16
}

// Decompress undoes LZString.compressToEncodedURIComponent. Where src ends early
// or the text is longer than limit UTF-16 units, it returns what it has and
// ErrTruncated.
func Decompress(src string, limit int) (string, error) {
	r := &reader{src: src, dict: make([]phrase, firstPhrase)}
	err := r.run(limit)
	if errors.Is(err, ErrCorrupt) {
		return "", err
	}
	return string(utf16.Decode(r.out[:min(len(r.out), limit)])), err
}

func (r *reader) run(limit int) error {
	previous := 0
	for len(r.out) < limit {
		code, err := r.code()
		if err != nil || code == end {
			return err
		}
		if previous != 0 {
			r.extend(previous, code)
		}
		if code >= len(r.dict) {
			return ErrCorrupt
		}
		r.emit(r.dict[code])
		previous = code
	}
	return ErrTruncated
}

// code reads one code, just wide enough for any the dictionary may need next. A
// new unit goes into the dictionary first.
func (r *reader) code() (int, error) {
	code, err := r.bits(bits.Len(uint(len(r.dict))))
	if err != nil || code >= end {
		return code, err
	}
	unit, err := r.bits(8 << code)
	if err != nil {
		return 0, err
	}
	r.dict = append(r.dict, phrase{length: 1, first: uint16(unit), last: uint16(unit)})
	return len(r.dict) - 1, nil
}

// extend adds the phrase that follows from two neighbours: the first, and one unit
// of the second. The second may be the very phrase that is being added.
func (r *reader) extend(previous, code int) {
	head := r.dict[previous]
	last := head.first
	if code < len(r.dict) {
		last = r.dict[code].first
	}
	r.dict = append(r.dict, phrase{prefix: previous, length: head.length + 1, first: head.first, last: last})
}

// emit writes a phrase back to front, as it is linked.
func (r *reader) emit(p phrase) {
	start := len(r.out)
	r.out = append(r.out, make([]uint16, p.length)...)
	for i := start + p.length - 1; i >= start; i-- {
		r.out[i] = p.last
		p = r.dict[p.prefix]
	}
}

// bits reads a number, least significant bit first. Each character holds six bits,
// the first of them its most significant.
func (r *reader) bits(count int) (int, error) {
	value := 0
	for i := range count {
		if r.left == 0 {
			if r.src == "" {
				return 0, ErrTruncated
			}
			r.char = strings.IndexByte(alphabet, r.src[0])
			if r.char < 0 {
				return 0, ErrCorrupt
			}
			r.src, r.left = r.src[1:], 6
		}
		r.left--
		value |= (r.char >> r.left & 1) << i
	}
	return value, nil
}
