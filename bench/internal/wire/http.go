package wire

import (
	"bufio"
	"bytes"
)

var endOfHead = []byte("\r\n\r\n")

// ReadHead reads the head of a request or response. It lies in r's buffer, is
// valid until r is next read, and must fit into that buffer.
func ReadHead(r *bufio.Reader) ([]byte, error) {
	for want := 1; ; {
		if _, err := r.Peek(want); err != nil {
			return nil, err
		}
		b, _ := r.Peek(r.Buffered())
		if end := bytes.Index(b, endOfHead); end >= 0 {
			end += len(endOfHead)
			_, err := r.Discard(end)
			return b[:end], err
		}
		want = len(b) + 1
	}
}

// Field returns the value of the first field of that name, or nil.
func Field(head []byte, name string) []byte {
	for line := range bytes.SplitSeq(head, endOfHead[:2]) {
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
	return nil
}
