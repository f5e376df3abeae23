package http1

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

// Body is a request body, all of it in memory. It can be sent more than once.
type Body struct {
	buffer *[]byte // from its pool
	tier   int     // of buffer
	size   int     // bytes in buffer
	read   int     // of those, how many Read has returned
}

// bufferSizes are those of the buffers in which a body grows. A client that sends
// slowly holds 512 bytes, or at most eight times what it has sent.
var bufferSizes = [...]int{512, 4 << 10, 16 << 10, MaxBody}

var bodies = sync.Pool{New: func() any { return new(Body) }}

var bufferPools [len(bufferSizes)]sync.Pool // of *[]byte

func takeBuffer(tier int) *[]byte {
	if b, ok := bufferPools[tier].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, bufferSizes[tier])
	return &b
}

// ReadBody reads a body of n bytes, at most MaxBody. A body that ends before is
// io.ErrUnexpectedEOF.
func ReadBody(r io.Reader, n int64) (*Body, error) {
	b := bodies.Get().(*Body)
	b.buffer = takeBuffer(0)
	for int64(b.size) < n {
		if b.size == len(*b.buffer) {
			b.grow()
		}
		limit := min(n, int64(len(*b.buffer)))
		m, err := r.Read((*b.buffer)[b.size:limit])
		b.size += m
		if err != nil && int64(b.size) < n {
			b.Release()
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return b, nil
}

func (b *Body) grow() {
	larger := takeBuffer(b.tier + 1)
	copy(*larger, *b.buffer)
	bufferPools[b.tier].Put(b.buffer)
	b.buffer = larger
	b.tier++
}

// Copy returns a reader of the body that does not mind if b is released.
func (b *Body) Copy() io.ReadCloser { return io.NopCloser(bytes.NewReader(bytes.Clone(b.bytes()))) }

// Len is the size of the body in bytes.
func (b *Body) Len() int64 { return int64(b.size) }

func (b *Body) bytes() []byte { return (*b.buffer)[:b.size] }

func (b *Body) Read(p []byte) (int, error) {
	if b.read == b.size {
		return 0, io.EOF
	}
	n := copy(p, b.bytes()[b.read:])
	b.read += n
	return n, nil
}

// Close has the next Read begin again.
func (b *Body) Close() error {
	b.read = 0
	return nil
}

// Release gives the memory back. Nothing may use b afterwards.
func (b *Body) Release() {
	bufferPools[b.tier].Put(b.buffer)
	*b = Body{}
	bodies.Put(b)
}

// bodyOf returns the body of req, or nil where it has none, before a connection is
// taken: a slow client must not keep one busy. owned says that the caller releases
// it.
func bodyOf(req *http.Request) (body *Body, owned bool, err error) {
	if b, ok := req.Body.(*Body); ok {
		return b, false, nil
	}
	defer closeBody(req)
	if req.Body == nil || req.ContentLength == 0 {
		return nil, false, nil
	}
	body, err = ReadBody(req.Body, req.ContentLength)
	return body, err == nil, err
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
