package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/tls13"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// FloodKeyUpdates opens a tunnel and never reads from it. It sends size bytes of
// KeyUpdates that ask for one in return, each with a byte of a message after it, which
// keeps TLS libraries from counting KeyUpdates in a row. It stops once the proxy has
// taken nothing for patience, or has ended the tunnel, and returns how much was sent.
func (t Target) FloodKeyUpdates(ctx context.Context, size int, patience time.Duration) (sent int, err error) {
	conn, sealer, err := t.openUnread(ctx)
	if err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	frame := wire.BulkFrom(true).Frame()
	for at := 0; sent < size; at = (at + pairs) % len(frame) {
		b, err := keyUpdates(sealer, frame[at:at+pairs])
		if err != nil {
			return sent, err
		}
		if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return sent, err
		}
		n, err := conn.Write(b)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			break
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, ctx.Err()
}

// openUnread opens a tunnel of which nothing will be read, and which is written
// to beneath crypto/tls.
func (t Target) openUnread(ctx context.Context) (net.Conn, *tls13.Sealer, error) {
	// What the proxy sends has to pile up in the proxy, not in this end's kernel.
	d := net.Dialer{Timeout: 10 * time.Second, Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		}), err)
	}}
	raw, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, nil, err
	}
	var secret tls13.Secret
	config := t.TLS.Clone()
	config.KeyLogWriter = &secret
	conn := tls.Client(raw, config)
	sealer, err := startSealed(ctx, conn, &secret, t.Upgrade(0))
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	return raw, sealer, nil
}

func startSealed(ctx context.Context, conn *tls.Conn, secret *tls13.Secret, request []byte) (*tls13.Sealer, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	sealer, err := tls13.NewSealer(conn.ConnectionState(), secret)
	if err != nil {
		return nil, err
	}
	if _, err := conn.NetConn().Write(sealer.AppendData(nil, request)); err != nil {
		return nil, err
	}
	if err := ReadGreeting(bufio.NewReader(conn)); err != nil {
		return nil, err
	}
	_, err = conn.NetConn().Write(sealer.AppendData(nil, wstest.Encode(true, wstest.Message(wire.BulkUp))))
	return sealer, err
}

// pairs is how many KeyUpdates, each with a byte of the frame, are written at once. It
// divides the frame's size.
const pairs = 128

func keyUpdates(sealer *tls13.Sealer, message []byte) (b []byte, err error) {
	for i := range message {
		if b, err = sealer.AppendKeyUpdate(b); err != nil {
			return nil, err
		}
		b = sealer.AppendData(b, message[i:i+1])
	}
	return b, nil
}

// DropHandshakes opens count connections and drops each at once: after the TLS
// handshake, after the request for a WebSocket, or after its response.
func DropHandshakes(ctx context.Context, target Target, count int) error {
	return eachOf(count, func(id int) error {
		conn, err := target.dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if id%3 > 0 {
			if _, err := conn.Write(target.Upgrade(id)); err != nil {
				return err
			}
		}
		if id%3 == 2 {
			if err := ReadUpgrade(newReader(conn)); err != nil {
				return err
			}
		}
		tcp := conn.(*tls.Conn).NetConn().(*net.TCPConn)
		return errors.Join(tcp.SetLinger(0), tcp.Close()) // a reset: no port is left waiting
	})
}
