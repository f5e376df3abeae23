package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// Bulk is a set of tunnels that carry as much as they can, one way.
type Bulk struct {
	conns   []net.Conn
	readers []*bufio.Reader
}

// OpenBulk opens count tunnels.
func OpenBulk(ctx context.Context, target Target, count int) (*Bulk, error) {
	b := &Bulk{}
	for id := range count {
		conn, r, err := target.openTunnel(ctx, id)
		if err != nil {
			b.Close()
			return nil, fmt.Errorf("opening tunnel %d: %w", id, err)
		}
		b.conns, b.readers = append(b.conns, conn), append(b.readers, r)
	}
	return b, nil
}

// Send sends to the relay for d, and returns how many frames the relay says have
// arrived. A Bulk is used once.
func (b *Bulk) Send(ctx context.Context, d time.Duration) (frames int, err error) {
	return b.each(ctx, func(conn net.Conn, r *bufio.Reader) (int, error) {
		bulk := wire.BulkFrom(true)
		if err := command(conn, wire.BulkUp); err != nil {
			return 0, err
		}
		sent := 0
		for deadline := now() + d; now() < deadline; sent++ {
			if _, err := conn.Write(bulk.Frame()); err != nil {
				return 0, err
			}
		}
		if _, err := conn.Write(bulk.Last()); err != nil {
			return 0, err
		}
		reply, err := wstest.NewReader(r, false).Next()
		if err != nil {
			return 0, fmt.Errorf("after %d frames: %w", sent, err)
		}
		if string(reply.Payload) != strconv.Itoa(sent+1) {
			return 0, fmt.Errorf("the relay counted %q frames, not %d", reply.Payload, sent+1)
		}
		return sent + 1, nil
	})
}

// Receive has the relay send for d, and returns how many frames came.
func (b *Bulk) Receive(ctx context.Context, d time.Duration) (frames int, err error) {
	return b.each(ctx, func(conn net.Conn, r *bufio.Reader) (int, error) {
		bulk := wire.BulkFrom(false)
		if err := command(conn, wire.BulkDown+strconv.FormatInt(d.Milliseconds(), 10)); err != nil {
			return 0, err
		}
		frame := make([]byte, wire.BulkFrameSize)
		for count := 1; ; count++ {
			if _, err := io.ReadFull(r, frame); err != nil {
				return 0, err
			}
			if last, err := bulk.Check(frame); last || err != nil {
				return count, err
			}
		}
	})
}

// each runs f for all tunnels at once, and closes them if ctx ends.
func (b *Bulk) each(ctx context.Context, f func(net.Conn, *bufio.Reader) (int, error)) (total int, err error) {
	defer context.AfterFunc(ctx, b.Close)()
	frames, errs := make([]int, len(b.conns)), make([]error, len(b.conns))
	var workers sync.WaitGroup
	for i, conn := range b.conns {
		workers.Go(func() { frames[i], errs[i] = f(conn, b.readers[i]) })
	}
	workers.Wait()
	for _, n := range frames {
		total += n
	}
	return total, errors.Join(append(errs, ctx.Err())...)
}

func command(conn net.Conn, message string) error {
	_, err := conn.Write(wstest.Encode(true, wstest.Message(message)))
	return err
}

// Close ends the tunnels.
func (b *Bulk) Close() {
	for _, conn := range b.conns {
		conn.Close()
	}
}
