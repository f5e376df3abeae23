package tunnel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
)

// Sizes around what a leg reads at once: a wake-up, a record, a buffer.
var legSizes = []int{
	1, 2, wakeSize - 1, wakeSize, wakeSize + 1, 2*wakeSize - 1, 2 * wakeSize, 1000,
	bufferSize - 1, bufferSize, bufferSize + 1, bufferSize + wakeSize, 2 * bufferSize, 100_000,
}

// receiveAll receives n bytes, however they come.
func receiveAll(t *testing.T, l Leg, n int) []byte {
	t.Helper()
	var got []byte
	for len(got) < n {
		buf, n, err := l.receive()
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got = append(got, buf[:n]...)
		giveBuffer(buf)
	}
	return got
}

// Nothing follows the bytes of each round, so one that a leg held back, or waited
// for more to go with, would hang the test.
func TestConnLegReceive(t *testing.T) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		leg, peer := kind.leg(t)
		for _, size := range legSizes {
			want := pattern(size)
			go peer.Write(want)
			if got := receiveAll(t, leg, size); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes did not arrive as they were sent", size)
			}
		}
	})
}

// Several writes that lie in the socket together stay in order.
func TestConnLegReceiveQueued(t *testing.T) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		leg, peer := kind.leg(t)
		var want []byte
		for i, size := range legSizes {
			p := bytes.Repeat([]byte{byte(i + 1)}, size)
			want = append(want, p...)
		}
		go func() {
			for i, size := range legSizes {
				peer.Write(bytes.Repeat([]byte{byte(i + 1)}, size))
			}
		}()
		if got := receiveAll(t, leg, len(want)); !bytes.Equal(got, want) {
			t.Error("the bytes did not arrive as they were sent")
		}
	})
}

func TestConnLegWrite(t *testing.T) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		leg, peer := kind.leg(t)
		for _, size := range legSizes {
			want, got := pattern(size), make([]byte, size)
			go leg.Write(want)
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes did not arrive as they were sent: %v", size, err)
			}
		}
	})
}

func TestConnLegPending(t *testing.T) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		for _, size := range legSizes {
			conn, peer := kind.connect(t)
			want := pattern(size + 3)
			leg := ConnLeg(conn, bytes.Clone(want[:size]), kind.setsDeadlines)
			if _, err := peer.Write(want[size:]); err != nil {
				t.Fatal(err)
			}
			if got := receiveAll(t, leg, len(want)); !bytes.Equal(got, want) {
				t.Errorf("%d bytes did not come first, or not whole", size)
			}
		}
	})
}

// What was sent right after a handshake is found wherever it is held, and what
// comes after it is read as usual.
func TestPending(t *testing.T) {
	const handshake = "HTTP/1.1 101 Switching Protocols\r\n"
	eachSocket(t, func(t *testing.T, kind socketKind) {
		if kind.setsDeadlines {
			t.Skip("Pending cannot tell what such a connection holds")
		}
		for _, readBuffer := range []int{4 << 10, 256 << 10} {
			for _, size := range append([]int{0}, legSizes...) {
				t.Run(fmt.Sprintf("buffer-%d/payload-%d", readBuffer, size), func(t *testing.T) {
					conn, peer := kind.connect(t)
					want := pattern(size)
					go peer.Write(append([]byte(handshake), want...))
					r := bufio.NewReaderSize(conn, readBuffer)
					if line, err := r.ReadString('\n'); err != nil || line != handshake {
						t.Fatalf("%q, %v", line, err)
					}
					pending := Pending(r, conn)
					if len(pending) < min(size, r.Buffered()) || r.Buffered() > 0 {
						t.Errorf("%d bytes are still in the buffer", r.Buffered())
					}
					leg := ConnLeg(conn, pending, false)
					if got := receiveAll(t, leg, size); !bytes.Equal(got, want) {
						t.Fatal("the bytes did not arrive as they were sent")
					}
					go peer.Write([]byte("more"))
					if got := receiveAll(t, leg, 4); string(got) != "more" {
						t.Errorf("then %q", got)
					}
				})
			}
		}
	})
}

// The end of the stream is io.EOF itself, whether it comes alone or right after
// the last bytes, and leaves the other direction open.
func TestConnLegHalfClosedByPeer(t *testing.T) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		for _, size := range append([]int{0}, legSizes...) {
			leg, peer := kind.leg(t)
			want := pattern(size)
			sent := make(chan error, 1)
			send := func() {
				_, err := peer.Write(want)
				sent <- errors.Join(err, peer.(interface{ CloseWrite() error }).CloseWrite())
			}
			if size < bufferSize {
				send() // so that bytes and end lie in the socket together
			} else {
				go send()
			}
			got, err := receiveToEnd(leg)
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes did not arrive as they were sent", size)
			}
			if err != io.EOF {
				t.Errorf("after %d bytes: %v, want io.EOF", size, err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if _, err := leg.Write([]byte("bye")); err != nil {
				t.Error(err)
			}
			if err := leg.closeWrite(); err != nil {
				t.Error(err)
			}
			if got, err := io.ReadAll(peer); string(got) != "bye" || err != nil {
				t.Errorf("the peer reads %q, %v", got, err)
			}
		}
	})
}

func receiveToEnd(l Leg) (got []byte, err error) {
	for err == nil {
		var buf *buffer
		var n int
		buf, n, err = l.receive()
		if n > 0 {
			got = append(got, buf[:n]...)
		}
		giveBuffer(buf)
	}
	return got, err
}

func TestConnLegCloseWrite(t *testing.T) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		leg, peer := kind.leg(t)
		if err := leg.closeWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the peer sees %v, want io.EOF", err)
		}
		go peer.Write([]byte("still here"))
		if got := receiveAll(t, leg, 10); string(got) != "still here" {
			t.Errorf("received %q", got)
		}
	})
}

func TestConnLegCloseWriteUnsupported(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	leg := ConnLeg(a, nil, false)
	defer a.Close()
	if err := leg.closeWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("closeWrite: %v", err)
	}
}

var endings = []struct {
	name string
	how  ending
	seen error // by the peer; crypto/tls takes a missing close_notify for an end, too
}{
	{"clean", endClean, io.EOF},
	{"forced", endForced, io.EOF},
	{"abort", endAbort, syscall.ECONNRESET},
}

func soon() time.Time { return time.Now().Add(linger) }

// A leg that is over releases its reader and ends as it should.
func TestConnLegEnd(t *testing.T) {
	for _, c := range endings {
		t.Run(c.name, func(t *testing.T) {
			eachSocket(t, func(t *testing.T, kind socketKind) {
				leg, peer := kind.leg(t)
				received := make(chan error, 1)
				go func() {
					_, err := receiveToEnd(leg)
					received <- err
				}()
				if _, err := leg.Write([]byte("bye")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(peer, make([]byte, 3)); err != nil {
					t.Fatal(err)
				}
				for stopped := false; !stopped; { // a wrapper may set deadlines of its own
					leg.stopReading()
					select {
					case err := <-received:
						if !errors.Is(err, os.ErrDeadlineExceeded) {
							t.Errorf("the reader that waits gets %v", err)
						}
						stopped = true
					case <-time.After(time.Millisecond):
					}
				}
				if cut := leg.settle(legEnd{how: c.how, until: soon}); cut > 0 {
					t.Errorf("%d bytes were cut", cut)
				}
				if _, err := leg.Write([]byte("x")); err == nil {
					t.Error("one can still write")
				}
				if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, c.seen) {
					t.Errorf("the peer sees %v, want %v", err, c.seen)
				}
			})
		})
	}
}

// Only a clean end says goodbye in TLS.
func TestConnLegEndCloseNotify(t *testing.T) {
	eachTLS(t, func(t *testing.T, kind socketKind) {
		for _, c := range endings {
			leg, peer := kind.leg(t)
			raw := innermost(peer)
			go leg.settle(legEnd{how: c.how, until: soon})
			got, _ := io.ReadAll(raw)
			if notified := len(got) > 0; notified != (c.how == endClean) {
				t.Errorf("%s: close_notify was sent: %v", c.name, notified)
			}
			raw.Close()
		}
	})
}

// So does the end of one direction.
func TestConnLegCloseWriteCloseNotify(t *testing.T) {
	eachTLS(t, func(t *testing.T, kind socketKind) {
		leg, peer := kind.leg(t)
		if err := leg.closeWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := innermost(peer).Read(make([]byte, 1)); err != nil {
			t.Errorf("no close_notify comes, but %v", err)
		}
	})
}

func eachTLS(t *testing.T, test func(t *testing.T, kind socketKind)) {
	eachSocket(t, func(t *testing.T, kind socketKind) {
		if !kind.tls {
			t.Skip("no TLS")
		}
		test(t, kind)
	})
}

// A peer that takes nothing must not keep a writer, nor the end, for ever.
func TestConnLegEndReleasesWriter(t *testing.T) {
	for _, c := range endings {
		t.Run(c.name, func(t *testing.T) {
			eachSocket(t, func(t *testing.T, kind socketKind) {
				leg, _ := kind.leg(t)
				failed := make(chan error, 1)
				begun := make(chan struct{})
				go func() {
					p := make([]byte, 64<<10)
					_, err := leg.Write(p)
					close(begun)
					for err == nil {
						_, err = leg.Write(p)
					}
					failed <- err
				}()
				<-begun
				until := time.Now().Add(50 * time.Millisecond)
				leg.limitWriting(until)
				<-failed
				if cut := leg.settle(legEnd{how: c.how, until: func() time.Time { return until }}); cut == 0 && unsentKnown {
					t.Error("nothing was cut")
				}
			})
		})
	}
}

// unsentKnown says whether the system tells what was not delivered.
const unsentKnown = runtime.GOOS == "linux" || runtime.GOOS == "darwin"

// Bytes and an error may come together.
func TestBufferedSource(t *testing.T) {
	s := bufferedSource{iotest.DataErrReader(bytes.NewReader([]byte("last")))}
	buf, n, err := s.receive()
	if n != 4 || err != io.EOF || string(buf[:n]) != "last" {
		t.Errorf("%d bytes, %v", n, err)
	}
	giveBuffer(buf)
	if buf, n, err := s.receive(); buf != nil || n != 0 || err != io.EOF {
		t.Errorf("then %v, %d bytes, %v", buf, n, err)
	}
}
