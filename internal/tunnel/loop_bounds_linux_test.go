package tunnel

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// byOwner calls f where the legs of l may be looked at, and waits.
func (l *loopTunnel) byOwner(f func(client, relay *sock)) {
	p := l.engine.(*pair)
	done := make(chan struct{})
	p.post(func() {
		defer close(done)
		f(p.client, p.relay)
	})
	<-done
}

// tls13Client is the client's end of a TLS 1.3 connection whose records the test
// makes itself.
type tls13Client struct {
	*tls.Conn // reads
	*recordSender
	raw net.Conn
}

// openForger opens a tunnel in a loop whose client is a tls13Client.
func openForger(t *testing.T, r *fixture) (*loopTunnel, *tls13Client) {
	t.Helper()
	leg, raw := tcpPair(t)
	leg.(*net.TCPConn).SetWriteBuffer(16 << 10)
	raw.(*net.TCPConn).SetReadBuffer(64 << 10)
	var secrets bytes.Buffer
	server, client := shakeHandsAs(t, leg, raw, &tls.Config{KeyLogWriter: &secrets, SessionTicketsDisabled: true})
	sender, err := newRecordSender(client.ConnectionState().CipherSuite, "CLIENT_TRAFFIC_SECRET_0", secrets.String())
	if err != nil {
		t.Fatal(err)
	}
	relayLeg, relay := tcpPair(t)
	tun := r.lease.Open(Info{}, ConnLeg(server, nil, false), ConnLeg(relayLeg, nil, false), time.Hour)
	if _, ok := tun.engine.(*pair); !ok {
		t.Fatalf("the engine is a %T", tun.engine)
	}
	return &loopTunnel{tun, halfClosing{raw.(*net.TCPConn)}, relay, r.summaries}, &tls13Client{client, sender, raw}
}

// halfClosing does not reset the connection for what has not been read.
type halfClosing struct{ *net.TCPConn }

func (c halfClosing) Close() error { return c.CloseWrite() }

// A client that never reads and has crypto/tls answer it all the time makes the loop
// hold no more than it should, is then not read from any more, and is when it has
// read.
func TestLoopKeyUpdateFlood(t *testing.T) {
	l, client := openForger(t, newLoopFixture(t))
	go io.Copy(io.Discard, l.relay)
	var sent int
	for {
		var flood []byte
		for range 500 { // the byte resets crypto/tls's own limit
			flood = append(flood, client.keyUpdate(true)...)
			flood = append(flood, client.record(recordApplicationData, []byte{'x'})...)
		}
		client.raw.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := client.raw.Write(flood)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			client.raw.SetWriteDeadline(time.Time{})
			go client.raw.Write(flood[n:])
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent > 64<<20 {
			t.Fatal("it is read from for ever")
		}
	}
	l.byOwner(func(s, _ *sock) {
		if n := cap(s.backlog); n == 0 || n > 2*maxBacklog {
			t.Errorf("the backlog takes %d bytes, after %d of a flood", n, sent)
		}
	})
	// It is read from again when it reads.
	carried := l.toRelay.bytes.Load()
	go io.Copy(io.Discard, client.raw)
	awaitForwarded(t, &l.toRelay, int(carried)+100)
	reset(client.raw)
	l.relay.Close()
	l.Wait()
}

// A client that does not read for a while, but sends, is read from.
func TestLoopFullDuplex(t *testing.T) {
	r := newLoopFixture(t)
	l := openLoopTunnel(t, r, true, true)
	narrow(innermost(l.client))
	written := make(chan error, 1)
	p := pattern(8 << 20)
	go func() {
		_, err := l.relay.Write(p)
		written <- err
	}()
	transfer(t, l.client, l.relay, p) // while nobody reads what comes the other way
	got := make([]byte, len(p))
	if _, err := io.ReadFull(l.client, got); err != nil || !bytes.Equal(got, p) {
		t.Error("what was held back has changed:", err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// What has come of a record costs about its own size.
func TestLoopPartialRecord(t *testing.T) {
	l, client := openForger(t, newLoopFixture(t))
	want := pattern(bufferSize)
	record := client.record(recordApplicationData, want)
	for i := 0; i < len(record); {
		n := min(len(record)-i, 1+i)
		if _, err := client.raw.Write(record[i : i+n]); err != nil {
			t.Fatal(err)
		}
		i += n
		for seen := false; !seen && i < len(record); {
			l.byOwner(func(s, _ *sock) {
				seen = len(s.partial) == i
				if !seen {
					return
				}
				if s.record != nil || rawInputOf(s.tls).Cap() > 0 || cap(s.partial) > 2*i+64 {
					t.Errorf("%d bytes of a record pin a record: %v, %d and %d bytes",
						i, s.record != nil, rawInputOf(s.tls).Cap(), cap(s.partial))
				}
			})
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(l.relay, got); err != nil || !bytes.Equal(got, want) {
		t.Error("the record has changed:", err)
	}
	l.byOwner(func(s, _ *sock) {
		if s.partial != nil {
			t.Errorf("%d bytes are still there", cap(s.partial))
		}
	})
	l.tearDown(t, len(want), 0)
}

// The beginning of a TLS message that never ends does not grow for ever.
func TestLoopEndlessHandshakeMessage(t *testing.T) {
	l, client := openForger(t, newLoopFixture(t))
	header := []byte{4, 0, 0xff, 0xff} // a session ticket of 64 KiB
	client.raw.Write(client.record(recordHandshake, append(header, make([]byte, 16000)...)))
	client.raw.Write(client.record(recordHandshake, make([]byte, 16000)))
	if _, err := io.Copy(io.Discard, l.relay); err == nil {
		t.Error("it ended in order")
	}
	l.wantHandshakeTooLong(t, client)
}

func (l *loopTunnel) wantHandshakeTooLong(t *testing.T, client *tls13Client) {
	t.Helper()
	l.relay.Close()
	client.raw.Close()
	if s := <-l.summaries; s.Reason != errHandshakeTooLong.Error() || s.ClosedBy != ByClient {
		t.Errorf("%+v", s)
	}
	l.Wait()
}

// A TLS message in many records that come at once is as bounded as one that comes in
// time.
func TestLoopLongHandshakeMessageAtOnce(t *testing.T) {
	l, client := openForger(t, newLoopFixture(t))
	const size = 0xfff0
	flood := client.record(recordHandshake, []byte{4, 0, size >> 8, size & 0xff}) // a session ticket
	for range size {
		flood = append(flood, client.record(recordHandshake, []byte{0})...)
	}
	// It has come before the loop looks.
	l.byOwner(func(s, _ *sock) {
		client.raw.SetWriteDeadline(time.Now().Add(time.Second))
		client.raw.Write(flood)
	})
	io.Copy(io.Discard, l.relay)
	l.wantHandshakeTooLong(t, client)
}

// A KeyUpdate leaves no buffer.
func TestLoopKeyUpdateLeavesNothing(t *testing.T) {
	l, client := openForger(t, newLoopFixture(t))
	client.raw.Write(client.keyUpdate(true))
	client.raw.Write(client.record(recordApplicationData, []byte("x")))
	if _, err := io.ReadFull(l.relay, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	l.byOwner(func(s, _ *sock) {
		if n := handOf(s.tls).Cap(); n > 0 {
			t.Errorf("the buffer for handshake messages keeps %d bytes", n)
		}
	})
	l.tearDown(t, 1, 0)
}

// A timer that fires late must not write to a descriptor that belongs to somebody
// else by now.
func TestLoopPostAfterItsEnd(t *testing.T) {
	r := newLoopFixture(t)
	l := newLoop()
	clientLeg, client := tcpPair(t)
	relayLeg, relay := tcpPair(t)
	tun := newTunnel(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	tun.group = r.lease.group
	tun.group.count.Add(1)
	p := tun.newPair(l)
	tun.engine = p
	p.begin()
	pass(t, client, relay, []byte("hello"))
	client.Close()
	relay.Close()
	tun.Wait()
	l.awaitEnd(t)
	// Whoever comes next gets the loop's numbers.
	var files []*os.File
	var theirs *os.File
	for range 100 {
		fds := make([]int, 2)
		if err := unix.Pipe2(fds, unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		reads, writes := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
		files = append(files, reads, writes)
		if fds[1] == l.wake {
			theirs = reads
			break
		}
	}
	for _, f := range files {
		defer f.Close()
	}
	if theirs == nil {
		t.Skip("another has got the number")
	}
	tun.engine.stop()
	p.post(func() { t.Error("the loop has ended") })
	var got [8]byte
	if n, err := unix.Read(int(theirs.Fd()), got[:]); err != unix.EAGAIN {
		t.Errorf("%d bytes were written into somebody else's file, %v", n, err)
	}
}

func (l *loop) awaitEnd(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		running := l.running
		l.mu.Unlock()
		if !running {
			return
		}
		if time.Now().After(until) {
			t.Fatal("the loop does not end")
		}
	}
}

// A loop that cannot wait for events costs its tunnels, not the process.
func TestLoopEpollFails(t *testing.T) {
	r := newLoopFixture(t)
	l := newLoop()
	broken := make(chan struct{})
	l.epollWait = func(epoll int, events []unix.EpollEvent, msec int) (int, error) {
		select {
		case <-broken:
			return -1, unix.EBADF
		default:
			return unix.EpollWait(epoll, events, msec)
		}
	}
	clientLeg, client := tcpPair(t)
	relayLeg, relay := tcpPair(t)
	tun := newTunnel(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	tun.group = r.lease.group
	tun.group.count.Add(1)
	p := tun.newPair(l)
	tun.engine = p
	p.begin()
	pass(t, client, relay, []byte("hello"))
	close(broken)
	client.Write([]byte("x"))
	for _, peer := range []net.Conn{client, relay} {
		io.Copy(io.Discard, peer)
	}
	if !tun.Wait() {
		t.Error("Wait takes it for an orderly end")
	}
	if s := r.summary(); s.Reason != unix.EBADF.Error() {
		t.Errorf("%+v", s)
	}
	l.awaitEnd(t)
}

// A loop that cannot wait for events leaves alone what is still being handed over to
// it: that ends when it has begun.
func TestLoopFailsDuringHandover(t *testing.T) {
	r := newLoopFixture(t)
	l := newLoop()
	l.epollWait = func(int, []unix.EpollEvent, int) (int, error) { return -1, unix.EBADF }
	clientLeg, client := tcpPair(t)
	relayLeg, relay := tcpPair(t)
	tun := newTunnel(Info{}, ConnLeg(clientLeg, nil, false), ConnLeg(relayLeg, nil, false), 0)
	tun.group = r.lease.enter()
	p := tun.newPair(l)
	for range 2 { // the second is called after a failure
		called := make(chan struct{})
		l.post(func() { close(called) })
		<-called
	}
	tun.engine = p
	p.begin()
	tun.Wait()
	client.Close()
	relay.Close()
	l.awaitEnd(t)
}

// A descriptor that a process being started has, too, keeps its events when it is
// closed. It must leave epoll before.
func TestLoopSharedDescriptor(t *testing.T) {
	r := newLoopFixture(t)
	l := openLoopTunnel(t, r, false, false)
	other := openLoopTunnel(t, r, false, false)
	for other.loop() != l.loop() {
		other = openLoopTunnel(t, r, false, false)
	}
	var shared int
	l.byOwner(func(client, _ *sock) { shared, _ = unix.Dup(client.fd) })
	defer unix.Close(shared)
	var looks int
	real := l.loop().epollWait
	other.byOwner(func(_, _ *sock) {
		l.loop().epollWait = func(epoll int, events []unix.EpollEvent, msec int) (int, error) {
			looks++
			return real(epoll, events, msec)
		}
	})
	l.client.Close()
	io.Copy(io.Discard, l.relay)
	l.relay.Close()
	l.Wait()
	time.Sleep(100 * time.Millisecond)
	other.byOwner(func(_, _ *sock) {
		if looks > 50 {
			t.Errorf("the loop has woken up %d times for somebody who is gone", looks)
		}
		l.loop().epollWait = real
	})
	other.tearDown(t, 0, 0)
}

// There are more loops when Go may use more processors.
func TestLoopsFollowProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	var s loopSet
	for _, c := range []struct{ processors, loops int }{{1, 1}, {2, 1}, {4, 3}, {2, 1}} {
		runtime.GOMAXPROCS(c.processors)
		seen := make(map[*loop]bool)
		for id := range uint64(100) {
			seen[s.forTunnel(id)] = true
		}
		if len(seen) != c.loops {
			t.Errorf("%d loops for %d processors, want %d", len(seen), c.processors, c.loops)
		}
	}
}

// Tunnels that are as fast as they can leave room for one that is not.
func TestLoopFairness(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two seconds")
	}
	wrap := engineKinds[0].wrap
	for _, lending := range []bool{true, false} {
		if !lending { // as if all processors were busy with others'
			borrowers.Add(1 << 20)
			defer borrowers.Add(-1 << 20)
		}
		result := runBulk(t, 3, 4, 2*time.Second, wrap)
		if worst := result.quantile(1); len(result.trips) < 20 || worst > time.Second {
			t.Errorf("lending %v: %d round trips, the longest took %v", lending, len(result.trips), worst)
		}
		if result.mbs < 1 {
			t.Errorf("lending %v: %.1f MB/s", lending, result.mbs)
		}
	}
}

// A tunnel that is lent out is drained like all others, and nothing is lost.
func TestLoopDrainsLentTunnel(t *testing.T) {
	for range 5 {
		r := newLoopFixture(t)
		l := openLoopTunnel(t, r, true, true)
		frame := encode(true, binaryFrame(pattern(200_000)))
		stop := make(chan struct{})
		sent := make(chan uint64, 1)
		go func() {
			var n uint64
			for {
				select {
				case <-stop:
					l.client.Write(encode(true, wstest.CloseFrame(1000)))
					sent <- n
					return
				default:
					l.client.Write(frame)
					n++
				}
			}
		}()
		relay := wstest.NewReader(l.relay, true)
		for range 50 {
			if _, err := relay.Next(); err != nil {
				t.Fatal(err)
			}
		}
		r.lease.Release()
		go func() {
			if f, err := wstest.NewReader(l.client, false).Next(); err != nil || f.Code() != closeGoingAway {
				t.Errorf("the client gets %s, %v", f, err)
			}
			close(stop)
		}()
		var frames int
		for {
			f, err := relay.Next()
			if err != nil {
				t.Fatalf("after %d frames: %v", frames, err)
			}
			if f.Opcode == opClose {
				break
			}
			frames++
		}
		l.relay.Write(encode(false, wstest.CloseFrame(1000)))
		if f, err := relay.Next(); err != io.EOF {
			t.Errorf("then %s, %v", f, err)
		}
		<-sent
		l.Wait()
		if s := <-l.summaries; s.Reason != reasonDrained || s.CutToRelay != 0 {
			t.Errorf("%+v", s)
		}
	}
}
