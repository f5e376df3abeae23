package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// Quiet is a set of tunnels that each send a message now and then and wait for the
// reply, while others make noise.
type Quiet struct {
	conns   []net.Conn
	readers []*wstest.Reader
}

// OpenQuiet opens count tunnels.
func OpenQuiet(ctx context.Context, target Target, count int) (*Quiet, error) {
	q := &Quiet{make([]net.Conn, count), make([]*wstest.Reader, count)}
	err := eachOf(count, func(id int) error {
		conn, r, err := target.openTunnel(ctx, id)
		q.conns[id], q.readers[id] = conn, wstest.NewReader(r, false)
		return err
	})
	if err != nil {
		q.Close()
	}
	return q, err
}

// Trips holds the round trips of one tunnel, and the error that ended it early, such as
// a reply that never came or was for another.
type Trips struct {
	Times []time.Duration
	Err   error
}

// Probe has each tunnel send once in each period for d, and returns the round
// trips of each. After d a reply is waited for no longer than patience.
func (q *Quiet) Probe(ctx context.Context, period, d time.Duration) []Trips {
	defer context.AfterFunc(ctx, q.Close)()
	trips := make([]Trips, len(q.conns))
	end := now() + d
	var workers sync.WaitGroup
	for id, conn := range q.conns {
		workers.Go(func() {
			_ = conn.SetDeadline(time.Now().Add(d + patience))
			for at := now() + rand.N(period); at < end && trips[id].Err == nil; at = max(at+period, now()) {
				time.Sleep(at - now())
				sent := now()
				trips[id].Err = roundTrip(conn, q.readers[id], id)
				trips[id].Times = append(trips[id].Times, now()-sent)
			}
		})
	}
	workers.Wait()
	return trips
}

func roundTrip(conn net.Conn, r *wstest.Reader, id int) error {
	var frame wire.MessageFrame
	if _, err := conn.Write(frame.Encode(now(), id)); err != nil {
		return err
	}
	reply, err := r.Next()
	if err != nil {
		return err
	}
	_, from, err := wire.ParseReply(reply.Payload)
	if err == nil && from != id {
		err = fmt.Errorf("tunnel %d got the reply of tunnel %d", id, from)
	}
	return err
}

// Close ends the tunnels.
func (q *Quiet) Close() {
	for _, conn := range q.conns {
		if conn != nil {
			conn.Close()
		}
	}
}
