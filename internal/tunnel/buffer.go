package tunnel

import "sync"

// bufferSize fits the plaintext of one full TLS record (RFC 8446, section 5.1).
const bufferSize = 16 << 10

type buffer [bufferSize]byte

// buffers are shared by all tunnels: a direction takes one when bytes come and
// gives it back before it waits again.
var buffers = sync.Pool{New: func() any { return new(buffer) }}

func takeBuffer() *buffer { return buffers.Get().(*buffer) }

func giveBuffer(b *buffer) {
	if b != nil {
		buffers.Put(b)
	}
}
