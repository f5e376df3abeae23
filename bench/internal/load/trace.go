package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// Posters are keep-alive connections that post to /trace.
type Posters struct {
	posters []*poster
}

type poster struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte // the head, and room for the message
	message []byte // that room
	rtt     []time.Duration
}

// OpenPosters opens count connections.
func OpenPosters(ctx context.Context, target Target, count int) (*Posters, error) {
	p := &Posters{make([]*poster, count)}
	err := eachOf(count, func(id int) error {
		conn, err := target.dial(ctx)
		if err == nil {
			p.posters[id] = newPoster(conn, target.TLS.ServerName)
		}
		return err
	})
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// PostEach posts once on each connection, some at a time.
func (p *Posters) PostEach() error {
	return eachOf(len(p.posters), func(id int) error { return p.posters[id].post(id) })
}

// Begin sends on each connection the head of a request and the first bytes of
// its body.
func (p *Posters) Begin(size int) error {
	return eachOf(len(p.posters), func(id int) error {
		poster := p.posters[id]
		_, err := poster.conn.Write(poster.request[:len(poster.request)-wire.MessageSize+size])
		return err
	})
}

func newPoster(conn net.Conn, host string) *poster {
	request := fmt.Appendf(nil, "POST /trace HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nContent-Type: application/json\r\n"+
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n"+
		"Accept: */*\r\nOrigin: https://app.test\r\nReferer: https://app.test/\r\n\r\n", host, wire.MessageSize)
	head := len(request)
	request = append(request, make([]byte, wire.MessageSize)...)
	return &poster{conn: conn, r: newReader(conn), request: request, message: request[head:]}
}

// Post keeps every connection busy for d and returns each request's round trip.
func (p *Posters) Post(ctx context.Context, d time.Duration) ([]time.Duration, error) {
	errs := make([]error, len(p.posters))
	deadline := now() + d
	var workers sync.WaitGroup
	for i, poster := range p.posters {
		workers.Go(func() {
			poster.rtt = poster.rtt[:0]
			for errs[i] == nil && ctx.Err() == nil && now() < deadline {
				errs[i] = poster.post(i)
			}
		})
	}
	workers.Wait()
	var all []time.Duration
	for _, poster := range p.posters {
		all = append(all, poster.rtt...)
	}
	return all, errors.Join(append(errs, ctx.Err())...)
}

func (p *poster) post(id int) error {
	wire.FillMessage(p.message, now(), id)
	if _, err := p.conn.Write(p.request); err != nil {
		return fmt.Errorf("posting: %w", err)
	}
	head, err := wire.ReadHead(p.r)
	if err != nil {
		return fmt.Errorf("reading the response to a post: %w", err)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) || string(wire.Field(head, "Content-Length")) != strconv.Itoa(wire.ReplySize) {
		return fmt.Errorf("the response to a post is %q", head)
	}
	var reply [wire.ReplySize]byte
	if _, err := io.ReadFull(p.r, reply[:]); err != nil {
		return fmt.Errorf("reading the response to a post: %w", err)
	}
	sent, from, err := wire.ParseReply(reply[:])
	if err == nil && from != id {
		err = fmt.Errorf("connection %d got the reply of connection %d", id, from)
	}
	p.rtt = append(p.rtt, now()-sent)
	return err
}

// Close ends the connections.
func (p *Posters) Close() {
	for _, poster := range p.posters {
		if poster != nil {
			poster.conn.Close()
		}
	}
}
