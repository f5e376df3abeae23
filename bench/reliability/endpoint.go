package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// role says which end of a tunnel an endpoint is. Other processes get it as JSON.
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
	frames  *wstest.Reader
	sent    int64 // payload
	payload []byte
	wire    []byte

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

// patience bounds what takes milliseconds on a machine with nothing else to do.
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
	r := bufio.NewReaderSize(e.conn, 16<<10)
	e.frames = wstest.NewReader(r, !e.Client)
	e.frames.Reuse = true
	if e.Client {
		target := load.Target{TLS: &tls.Config{ServerName: "proxy.test"}}
		if _, err := e.conn.Write(target.Upgrade(e.ID)); err != nil {
			return err
		}
		return load.ReadUpgrade(r)
	}
	head, err := wire.ReadHead(r)
	if err != nil {
		return err
	}
	_, err = e.conn.Write(relay.Upgraded(wstest.Accept(string(wire.Field(head, "Sec-WebSocket-Key")))))
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
	if _, err := e.conn.Write(e.frame(size)); err != nil {
		e.writeFailed = errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		return err
	}
	e.sent += int64(size)
	e.ledger.enter(e.sent)
	return nil
}

// sendPart sends a frame that lacks the second half of its payload.
func (e *endpoint) sendPart(size int) error {
	frame := e.frame(2 * size)
	if _, err := e.conn.Write(frame[:len(frame)-size]); err != nil {
		return err
	}
	e.sent += int64(size)
	e.ledger.enter(e.sent)
	return nil
}

// frame returns a frame with the next size bytes of payload.
func (e *endpoint) frame(size int) []byte {
	e.payload = slices.Grow(e.payload[:0], size)[:size]
	wstest.Pattern(e.payload, e.direction(true), uint64(e.sent))
	e.wire = wstest.Frame{Fin: true, Opcode: wstest.Binary, Payload: e.payload}.AppendTo(e.wire[:0], e.Client)
	return e.wire
}

// sendClose sends a Close frame, 1000.
func (e *endpoint) sendClose() error {
	_, err := e.conn.Write(wstest.Encode(e.Client, wstest.CloseFrame(wstest.NormalClosure)))
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
	for {
		f, err := e.frames.Next()
		if f.Opcode == wstest.Binary {
			r.damaged = r.damaged || wstest.CheckPattern(f.Payload, e.direction(false), uint64(r.payload)) != nil
			r.payload += int64(len(f.Payload))
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			r.inFrame, err = true, io.EOF
		}
		if err != nil {
			r.err = err
			return
		}
		if f.Opcode == wstest.Close {
			r.closed = true
			onClose()
		}
	}
}

// sawOrderlyEnd reports whether the stream ended as if the other side had ended it in
// order. The kernel tells of a reset once: after a write has failed with it, reads see
// the end of a stream.
func (e *endpoint) sawOrderlyEnd() bool {
	r := &e.received
	return !r.inFrame && errors.Is(r.err, io.EOF) && !e.writeFailed && (!e.TLS || e.ledger.records.closeNotify())
}

// hung reports whether no end came in time.
func (r *received) hung() bool { return errors.Is(r.err, os.ErrDeadlineExceeded) }
