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
	return tlsLayout{rawInput, input, hand, config, ok1 && ok2 && ok3 && ok4}
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

// bareConfig is all the configuration that an established connection needs.
var bareConfig = new(tls.Config)

// releaseHandshake lets go of what c needed for its handshake, which must be over.
// No goroutine may use c meanwhile. From then on crypto/tls asks the configuration
// only whether to renegotiate, to keep a session ticket, and how to cut records.
func releaseHandshake(c *tls.Conn) {
	if hand := handOf(c); hand.Len() == 0 {
		*hand = bytes.Buffer{}
	}
	if config := configOf(c); (*config).Renegotiation == tls.RenegotiateNever {
		*config = bareConfig
	}
}

// recordSize fits a TLS record and what bytes.Buffer wants to have free behind
// it, so that crypto/tls reads each with one system call and never grows it.
const recordSize = 5 + 16<<10 + 2<<10 + bytes.MinRead

// records are the input buffers of the TLS connections that are being read from.
var records = sync.Pool{New: func() any { return new([recordSize]byte) }}

// readyTLSSource waits until the connection is readable and only then gives
// crypto/tls a buffer for its input, which it takes back when that is used up.
type readyTLSSource struct {
	conn   *tls.Conn
	ready  readiness
	record *[recordSize]byte // lent to conn; nil while waiting
}

// newReadyTLSSource returns nil where this is not possible.
func newReadyTLSSource(c *tls.Conn) source {
	tcpConn, ok := c.NetConn().(*net.TCPConn)
	if !layout.ok || !ok || !c.ConnectionState().HandshakeComplete {
		return nil
	}
	s := &readyTLSSource{conn: c}
	if !s.ready.init(tcpConn) {
		return nil
	}
	releaseHandshake(c)
	return s
}

func (s *readyTLSSource) receive() (*buffer, int, error) {
	if !s.holdsInput() {
		s.takeRecordBack()
		if err := s.ready.wait(); err != nil {
			return nil, 0, err
		}
		s.lendRecord()
	}
	buf := takeBuffer()
	n, err := s.conn.Read(buf[:])
	if err != nil || !s.holdsInput() {
		s.takeRecordBack()
	}
	if n == 0 {
		giveBuffer(buf)
		return nil, 0, err
	}
	return buf, n, err
}

// holdsInput reports whether conn has bytes that it has read but not handed out.
func (s *readyTLSSource) holdsInput() bool {
	return inputOf(s.conn).Len() > 0 || rawInputOf(s.conn).Len() > 0
}

func (s *readyTLSSource) lendRecord() {
	s.record = records.Get().(*[recordSize]byte)
	*rawInputOf(s.conn) = *bytes.NewBuffer(s.record[:0])
}

// takeRecordBack leaves conn without a buffer, unless it still holds input.
func (s *readyTLSSource) takeRecordBack() {
	if s.holdsInput() {
		return
	}
	*rawInputOf(s.conn) = bytes.Buffer{}
	inputOf(s.conn).Reset(nil)
	if s.record != nil {
		records.Put(s.record)
		s.record = nil
	}
}

// wakeSize fits the relay's acknowledgements, pings and Close frames, so that
// these need no second read.
const wakeSize = 64

// wakeTLSSource is for TLS connections whose readiness cannot be told. It waits in
// a read of a few bytes and takes a buffer when they have come. crypto/tls has
// decrypted a whole record by then, the rest of which it hands out without another
// system call.
type wakeTLSSource struct {
	conn *tls.Conn
	wake [wakeSize]byte
}

func (s *wakeTLSSource) receive() (*buffer, int, error) {
	n, err := s.conn.Read(s.wake[:])
	if n == 0 {
		return nil, 0, err
	}
	buf := takeBuffer()
	copy(buf[:], s.wake[:n])
	if n < wakeSize || err != nil {
		return buf, n, err
	}
	more, err := readReady(s.conn, s.conn, buf[n:])
	return buf, n + more, err
}
