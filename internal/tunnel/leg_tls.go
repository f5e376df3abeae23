package tunnel

import (
	"bytes"
	"crypto/tls"
	"net"
	"reflect"
	"sync"
	"time"
	"unsafe"
)

// crypto/tls keeps things for the life of a connection that a tunnel can do
// without: its input buffers, which stay as large as the largest record and
// handshake message were, and the tls.Config, through which a server's connection
// holds the whole of the Caddy configuration that accepted it. The package offers no
// way to release these, so this file reaches into its unexported fields.
//
// All of it is looked up by name and type, and testTLS tries whether it still means
// what it did. Should a later crypto/tls be different, nothing here is used, and
// goroutines carry all tunnels (Engine tells). docs/engine.md has the
// measurements.

// tlsLayout is where tls.Conn keeps what is reached for here.
type tlsLayout struct {
	rawInput uintptr // bytes.Buffer: ciphertext, a record or more or a part of one
	input    uintptr // bytes.Reader: plaintext in rawInput's memory
	hand     uintptr // bytes.Buffer: handshake messages
	config   uintptr // *tls.Config
	conn     uintptr // net.Conn: the connection below
	ok       bool
}

var layout = findLayout(reflect.TypeFor[tls.Conn]())

func findLayout(conn reflect.Type) tlsLayout {
	offset := func(name string, want reflect.Type) (uintptr, bool) {
		f, ok := conn.FieldByName(name)
		return f.Offset, ok && f.Type == want
	}
	rawInput, ok1 := offset("rawInput", reflect.TypeFor[bytes.Buffer]())
	input, ok2 := offset("input", reflect.TypeFor[bytes.Reader]())
	hand, ok3 := offset("hand", reflect.TypeFor[bytes.Buffer]())
	config, ok4 := offset("config", reflect.TypeFor[*tls.Config]())
	below, ok5 := offset("conn", reflect.TypeFor[net.Conn]())
	return tlsLayout{rawInput, input, hand, config, below, ok1 && ok2 && ok3 && ok4 && ok5}
}

func rawInputOf(c *tls.Conn) *bytes.Buffer {
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), layout.rawInput))
}

func inputOf(c *tls.Conn) *bytes.Reader {
	return (*bytes.Reader)(unsafe.Add(unsafe.Pointer(c), layout.input))
}

func handOf(c *tls.Conn) *bytes.Buffer {
	return (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(c), layout.hand))
}

func configOf(c *tls.Conn) **tls.Config {
	return (**tls.Config)(unsafe.Add(unsafe.Pointer(c), layout.config))
}

func netConnOf(c *tls.Conn) *net.Conn {
	return (*net.Conn)(unsafe.Add(unsafe.Pointer(c), layout.conn))
}

// bareConfig is all the configuration that an established connection needs.
var bareConfig = new(tls.Config)

// releaseHandshake lets go of what c needed for its handshake, if that is over. No
// goroutine may use c meanwhile, but for one that is about to come out of Write: for
// that it waits. From then on crypto/tls asks the configuration only whether to
// renegotiate, to keep a session ticket, and how to cut records.
func releaseHandshake(c *tls.Conn) {
	if !reachesIntoTLS() || !c.ConnectionState().HandshakeComplete {
		return
	}
	awaitWriter(c)
	trimHandshake(c)
	if config := configOf(c); (*config).Renegotiation == tls.RenegotiateNever {
		*config = bareConfig
	}
}

// awaitWriter waits for a Write that is under way. A relay can answer the handshake
// before http.Transport's writer has returned from sending it.
func awaitWriter(c *tls.Conn) {
	c.SetWriteDeadline(time.Now().Add(linger))
	c.Write(nil) // sends nothing, but takes the lock; an error comes again
	c.SetWriteDeadline(time.Time{})
}

// trimHandshake frees the buffer for handshake messages, where no part of one is in
// it.
func trimHandshake(c *tls.Conn) {
	if hand := handOf(c); hand.Len() == 0 && hand.Cap() > 0 {
		*hand = bytes.Buffer{}
	}
}

// renegotiates reports whether the peer of c may ask for another handshake. That
// blocks in the middle of a read.
func renegotiates(c *tls.Conn) bool {
	return (*configOf(c)).Renegotiation != tls.RenegotiateNever
}

// record is an input buffer for crypto/tls. It fits two TLS records and what
// bytes.Buffer wants to have free after them, so that what comes at once is read
// with one system call and the buffer is never replaced by a larger one.
type record [2*(5+16<<10+256) + 4<<10]byte

// records are lent to TLS connections while these are being read from.
var records = sync.Pool{New: func() any { return new(record) }}

func giveRecord(r *record) {
	if r != nil {
		records.Put(r)
	}
}

// holdsInput reports whether c has bytes that it has read but not handed out.
func holdsInput(c *tls.Conn) bool {
	return inputOf(c).Len() > 0 || rawInputOf(c).Len() > 0
}

// lendRecord gives c, which holds no input, a buffer for it. partial is the
// beginning of a record that was taken back before.
func lendRecord(c *tls.Conn, r *record, partial []byte) {
	*rawInputOf(c) = *bytes.NewBuffer(append(r[:0], partial...))
}

// takeRecordBack leaves c, which holds no plaintext, without a buffer. It appends
// what c has of a record that has not come whole to partial.
func takeRecordBack(c *tls.Conn, partial []byte) []byte {
	partial = append(partial, rawInputOf(c).Bytes()...)
	*rawInputOf(c) = bytes.Buffer{}
	inputOf(c).Reset(nil)
	return partial
}

// errWouldBlock says that a read would have to wait. crypto/tls takes a temporary
// net.Error for no more than that.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "reading would block" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }
