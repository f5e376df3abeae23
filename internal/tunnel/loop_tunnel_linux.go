package tunnel

import (
	"crypto/tls"
	"fmt"
	"net"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"
)

// prepareLoop hands t's legs over to an event loop and returns what begins. It
// returns nil, and leaves everything as it was, where the legs are not ones for a
// loop: TCP with or without TLS, and nothing in between but the PROXY protocol.
func (t *Tunnel) prepareLoop() (begin func()) {
	client, relay := newSock(t.client), newSock(t.relay)
	if client == nil || relay == nil {
		closeUnused(client, relay)
		return nil
	}
	l := loops()[t.id%uint64(len(loops()))]
	if err := l.reserve(); err != nil {
		closeUnused(client, relay)
		return nil
	}
	client.peer, relay.peer = relay, client
	client.from, relay.from = &t.toRelay, &t.toClient
	for _, s := range []*sock{client, relay} {
		s.loop, s.tunnel = l, t
		l.watch(s)
		s.takeOver()
	}
	t.running.Add(1)
	t.looped = func() {
		l.post(func() {
			client.endFrom(net.ErrClosed)
			relay.endFrom(net.ErrClosed)
		})
	}
	return func() {
		l.post(func() {
			client.begin()
			relay.begin()
		})
	}
}

// newSock returns a sock with a descriptor of its own for leg's socket, or nil.
func newSock(leg Leg) *sock {
	l, ok := leg.(*connLeg)
	if !ok {
		return nil
	}
	conn := l.Conn
	tlsConn, isTLS := conn.(*tls.Conn)
	if isTLS {
		if !layout.ok || !tlsConn.ConnectionState().HandshakeComplete {
			return nil
		}
		conn = tlsConn.NetConn()
	}
	tcpConn, ok := unproxied(conn).(*net.TCPConn)
	if !ok {
		return nil
	}
	fd, err := duplicate(tcpConn)
	if err != nil {
		return nil
	}
	s := &sock{leg: l, tls: tlsConn, fd: fd}
	if proxied, ok := conn.(*proxyproto.Conn); ok {
		s.rescue(Pending(proxied, proxied))
	}
	return s
}

// rescue puts bytes that the wrapper below the leg was still holding where the leg
// finds them, with or without an event loop.
func (s *sock) rescue(held []byte) {
	if s.tls != nil {
		rawInputOf(s.tls).Write(held)
		return
	}
	s.leg.pending = append(s.leg.pending, held...)
}

// duplicate returns another descriptor of conn's socket. Go's own poller does not
// know it: it would wake up for each packet.
func duplicate(conn *net.TCPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if controlErr != nil {
		return 0, controlErr
	}
	return fd, err
}

func closeUnused(socks ...*sock) {
	for _, s := range socks {
		if s != nil {
			unix.Close(s.fd)
		}
	}
}

// takeOver puts s in the place of the connection that it duplicates.
func (s *sock) takeOver() {
	if s.tls == nil {
		s.leg.Conn.Close()
		s.leg.Conn = s
		return
	}
	s.tls.NetConn().Close()
	*netConnOf(s.tls) = s
}

// begin sends off what came behind the handshake, and begins to read.
func (s *sock) begin() {
	pending := s.leg.pending
	s.leg.pending = nil
	if len(pending) > 0 {
		s.tunnel.touch()
		if err := s.from.forward(pending); err != nil {
			s.endFrom(err)
			return
		}
	}
	s.resume()
}

// resume reads from now on, and what is there already: TLS may hold records that no
// event will tell of.
func (s *sock) resume() {
	if s.atEnd != nil {
		s.endFrom(s.atEnd)
		return
	}
	if err := s.setReading(true); err != nil {
		s.endFrom(err)
		return
	}
	s.pump()
}

// ready is called when epoll has something to say of s.
func (s *sock) ready(events uint32) {
	emptied, err := s.flush()
	switch {
	case err != nil:
		s.peer.endFrom(fmt.Errorf("%w: %w", errWrite, err))
	case emptied && !s.peer.ended:
		s.peer.resume()
	}
	if events&^unix.EPOLLOUT != 0 && s.isReading() {
		s.pump()
	}
}

// maxPieces is how many pieces one leg may send before it is the others' turn.
const maxPieces = 16

// pump forwards what s has to give without waiting.
func (s *sock) pump() {
	for range maxPieces {
		if s.ended {
			return
		}
		if s.peer.hasBacklog() {
			_ = s.setReading(false) // until ready has flushed it
			return
		}
		n, err := s.receive(s.loop.buf[:])
		if n > 0 {
			s.tunnel.touch()
			if werr := s.from.forward(s.loop.buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil && err != errWouldBlock {
			s.endAfterBacklog(err)
			return
		}
		if err != nil || !s.holdsInput() {
			return // epoll tells when there is more
		}
	}
	s.loop.post(s.pump)
}

// receive reads from the leg, and gives crypto/tls a buffer for its input just as
// long as it needs one.
func (s *sock) receive(p []byte) (int, error) {
	if s.tls == nil {
		return s.Read(p)
	}
	if s.record == nil && !s.holdsInput() {
		s.record = s.loop.takeRecord()
		lendRecord(s.tls, s.record)
	}
	n, err := s.tls.Read(p)
	if s.record != nil && !s.holdsInput() {
		takeRecordBack(s.tls)
		s.loop.giveRecord(s.record)
		s.record = nil
	}
	return n, err
}

// holdsInput reports whether TLS has read bytes that it has not handed out.
func (s *sock) holdsInput() bool { return s.tls != nil && holdsInput(s.tls) }

// endAfterBacklog ends the direction that leaves s when the other leg has taken
// what came before an orderly end.
func (s *sock) endAfterBacklog(err error) {
	if isEOF(err) && s.peer.hasBacklog() {
		s.atEnd = err
		_ = s.setReading(false) // until ready has flushed it
		return
	}
	s.endFrom(err)
}

// endFrom ends the direction that leaves s, once.
func (s *sock) endFrom(err error) {
	if s.ended {
		return
	}
	s.ended = true
	_ = s.setReading(false)
	s.tunnel.directionEnded(s.from, err, s.peer.from.from)
	if s.peer.ended {
		s.loop.release()
	}
}
