package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// role is which end of a tunnel an endpoint is. It is handed to other processes.
type role struct {
	Client    bool
	TLS       bool // on this leg
	ID        int  // of the tunnel
	Reads     bool // of a victim
	Roots     string
	Cert, Key string
}

// direction numbers what this end sends, or the other.
func (r role) direction(own bool) uint64 {
	if r.Client == own {
		return uint64(r.ID) * 2
	}
	return uint64(r.ID)*2 + 1
}

// endpoint is one end of an open tunnel. One goroutine writes, one reads.
type endpoint struct {
	role
	ledger  *ledger
	conn    net.Conn // over the ledger
	r       *bufio.Reader
	sent    int64 // payload
	scratch []byte

	received    received // once received from
	writeFailed bool     // because the connection was reset
}

// received is what has come in, and how it ended.
type received struct {
	payload int64
	damaged bool
	closed  bool  // a Close frame came
	inFrame bool  // it ended within a frame
	err     error // of the connection: io.EOF is an orderly end
}

// patience is for what has to happen at once, on a busy machine.
const patience = 20 * time.Second

// establish makes an endpoint of a TCP connection.
func establish(tcp *net.TCPConn, role role) (*endpoint, error) {
	e := &endpoint{role: role, ledger: &ledger{TCPConn: tcp}}
	err := tcp.SetDeadline(time.Now().Add(patience))
	if err == nil {
		err = e.handshake()
	}
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return e, tcp.SetDeadline(time.Time{})
}

func (e *endpoint) handshake() error {
	e.conn = e.ledger
	if e.TLS {
		if err := e.startTLS(); err != nil {
			return err
		}
	}
	e.r = bufio.NewReaderSize(e.conn, 16<<10)
	if e.Client {
		target := load.Target{TLS: &tls.Config{ServerName: "proxy.test"}}
		if _, err := e.conn.Write(target.Upgrade(e.ID)); err != nil {
			return err
		}
		return load.ReadUpgrade(e.r)
	}
	head, err := wire.ReadHead(e.r)
	if err != nil {
		return err
	}
	_, err = e.conn.Write(relay.Upgraded(wire.AcceptKey(wire.Field(head, "Sec-WebSocket-Key"))))
	return err
}

func (e *endpoint) startTLS() error {
	if e.Client {
		pool, err := readRoots(e.Roots)
		if err != nil {
			return err
		}
		e.conn = tls.Client(e.ledger, load.NewTarget("", "proxy.test", pool).TLS)
	} else {
		config, err := relay.TLSConfig(e.Cert, e.Key)
		if err != nil {
			return err
		}
		e.conn = tls.Server(e.ledger, config)
	}
	return e.conn.(*tls.Conn).HandshakeContext(context.Background())
}

// send sends a message with the next size bytes of payload.
func (e *endpoint) send(size int) error {
	if _, err := e.conn.Write(e.frame(size, size)); err != nil {
		e.writeFailed = errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		return err
	}
	e.sent += int64(size)
	e.ledger.enter(e.sent)
	return nil
}

// sendPart sends a frame that lacks the second half of its payload.
func (e *endpoint) sendPart(size int) error {
	if _, err := e.conn.Write(e.frame(2*size, size)); err != nil {
		return err
	}
	e.sent += int64(size)
	e.ledger.enter(e.sent)
	return nil
}

// frame has a masking key of zero, which leaves the payload as it is.
func (e *endpoint) frame(announced, size int) []byte {
	b := append(e.scratch[:0], 0x82, 127)
	if e.Client {
		b[1] |= 0x80
	}
	b = binary.BigEndian.AppendUint64(b, uint64(announced))
	if e.Client {
		b = append(b, 0, 0, 0, 0)
	}
	head := len(b)
	b = append(b, make([]byte, size)...)
	fill(b[head:], e.direction(true), e.sent)
	e.scratch = b
	return b
}

// sendClose sends a Close frame, 1000.
func (e *endpoint) sendClose() error {
	b := []byte{0x88, 2, 3, 0xe8}
	if e.Client {
		b = []byte{0x88, 0x82, 0, 0, 0, 0, 3, 0xe8}
	}
	_, err := e.conn.Write(b)
	return err
}

// end ends what this end sends in order: close_notify and FIN.
func (e *endpoint) end() error {
	if conn, ok := e.conn.(*tls.Conn); ok {
		if err := conn.CloseWrite(); err != nil {
			return err
		}
	}
	return e.ledger.CloseWrite()
}

// reset ends the connection with a RST, whatever is still to be sent.
func (e *endpoint) reset() { _ = errors.Join(e.ledger.SetLinger(0), e.ledger.Close()) }

// receive reads until the end, and calls onClose at a Close frame.
func (e *endpoint) receive(onClose func()) {
	r := &e.received
	want, got := make([]byte, 16<<10), make([]byte, 16<<10)
	for {
		opcode, size, err := e.readHead()
		for ; err == nil && size > 0; r.inFrame = size > 0 {
			part := got[:min(size, int64(len(got)))]
			var n int
			n, err = e.r.Read(part)
			if opcode == 2 {
				fill(want[:n], e.direction(false), r.payload)
				r.damaged = r.damaged || string(want[:n]) != string(part[:n])
				r.payload += int64(n)
			}
			size -= int64(n)
		}
		if err != nil {
			r.err = err
			return
		}
		if opcode == 8 {
			r.closed = true
			onClose()
		}
	}
}

func (e *endpoint) readHead() (opcode byte, size int64, err error) {
	var b [8]byte
	if b[0], err = e.r.ReadByte(); err != nil {
		return 0, 0, err
	}
	opcode = b[0] & 15
	e.received.inFrame = true
	if b[0], err = e.r.ReadByte(); err != nil {
		return 0, 0, err
	}
	masked, length := b[0]&0x80 != 0, b[0]&0x7f
	if length == 127 {
		if _, err := io.ReadFull(e.r, b[:]); err != nil {
			return 0, 0, err
		}
		size = int64(binary.BigEndian.Uint64(b[:]))
	} else {
		size = int64(length)
	}
	if masked {
		if _, err := e.r.Discard(4); err != nil {
			return 0, 0, err
		}
	}
	e.received.inFrame = size > 0
	return opcode, size, nil
}

// sawOrderlyEnd says whether what came in ended as an orderly end of the other
// side does. A write that fails takes the news of a reset away from the reads,
// which then see the end of a stream.
func (e *endpoint) sawOrderlyEnd() bool {
	r := &e.received
	return !r.inFrame && errors.Is(r.err, io.EOF) && !e.writeFailed && (!e.TLS || e.ledger.records.closeNotify())
}

// hung says that no end came in time.
func (r *received) hung() bool { return errors.Is(r.err, os.ErrDeadlineExceeded) }
