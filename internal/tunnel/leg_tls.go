package tunnel

import (
	"bytes"
	"crypto/tls"
	"net"
	"reflect"
	"sync"
	"unsafe"
)

// crypto/tls keeps things for the life of a connection that a tunnel can do
// without: its input buffers, which stay as large as the largest record and
// handshake message were, and the tls.Config, through which a server's connection
// holds the whole of the Caddy configuration that accepted it. Nothing of that can
// be let go of through the package's interface, so this file does it behind its
// back.
//
// All of it is looked up by name and type when the process starts. Should a
// later crypto/tls look different, nothing here is used and tunnels cost more
// memory (TestTLSLayout tells). docs/performance.md has the measurements.

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
// goroutine may use c meanwhile. From then on crypto/tls asks the configuration only
// whether to renegotiate, to keep a session ticket, and how to cut records.
func releaseHandshake(c *tls.Conn) {
	if !layout.ok || !c.ConnectionState().HandshakeComplete {
		return
	}
	if hand := handOf(c); hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
	if config := configOf(c); (*config).Renegotiation == tls.RenegotiateNever {
		*config = bareConfig
	}
}

// record is an input buffer for crypto/tls. It fits two TLS records and what
// bytes.Buffer wants to have free behind them, so that what comes at once is read
// with one system call and the buffer is never exchanged for a larger one.
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

// lendRecord gives c, which holds no input, a buffer for it.
func lendRecord(c *tls.Conn, r *record) { *rawInputOf(c) = *bytes.NewBuffer(r[:0]) }

// takeRecordBack leaves c, which holds no input, without a buffer.
func takeRecordBack(c *tls.Conn) {
	*rawInputOf(c) = bytes.Buffer{}
	inputOf(c).Reset(nil)
}
