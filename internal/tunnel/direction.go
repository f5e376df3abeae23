package tunnel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// direction carries the bytes of one leg to the other.
type direction struct {
	src, dst Leg
	from     string // the side that src is: ByClient or ByRelay
	masked   bool   // frames of this direction are masked: it leads to a server

	// closer is the tunnel's: the side whose Close frame came first.
	closer *atomic.Pointer[string]

	bytes  atomic.Uint64 // taken from src
	frames atomic.Uint64 // begun
	code   atomic.Int32  // of the Close frame that passed; 0 for none

	// goingAway asks for a Close frame at the next boundary.
	goingAway atomic.Bool

	// stopped asks copy to return, with this error.
	stopped atomic.Pointer[error]

	// mu makes whoever holds it the one writer of dst. It protects what follows.
	mu     sync.Mutex
	scan   scanner
	lost   int   // bytes of the last write, which has failed
	failed error // of the last write; nil if it has not failed
	closed bool  // nothing may follow: a Close frame has been written, or the end of dst
}

var (
	// errPeerClosed ends a direction whose peer has answered our Close frame.
	errPeerClosed = errors.New("close frame answered")
	// errWrite marks a failure of the destination, not of the source.
	errWrite = errors.New("writing")
	// errStopped ends a direction that has nothing left to do, or no time.
	errStopped = errors.New("stopped")
	// errOtherEnded ends a direction in order because the other one has ended so,
	// and its source cannot be told of the end of one direction only.
	errOtherEnded = errors.New("the stream has ended the other way")
)

// copy forwards until src ends or dst fails, and says why: io.EOF is an orderly
// end of src. touch is called for each piece.
func (d *direction) copy(touch func()) error {
	for d.stopped.Load() == nil {
		buf, n, err := d.src.receive()
		if n > 0 {
			touch()
			if werr := d.forward(buf[:n]); werr != nil {
				err = werr
			}
		}
		giveBuffer(buf)
		if err != nil && !d.interrupted(err) {
			return err
		}
	}
	return *d.stopped.Load()
}

// interrupted reports whether err comes of a deadline that was set to stop d.
func (d *direction) interrupted(err error) bool {
	return d.stopped.Load() != nil && errors.Is(err, os.ErrDeadlineExceeded)
}

func (d *direction) forward(p []byte) error {
	d.mu.Lock()
	err := d.write(p)
	d.mu.Unlock()
	if err == nil && d.goingAway.Load() {
		// goAway may have found mu taken and left the Close frame to us.
		err = d.goAway()
	}
	return err
}

// write passes p on; once a Close frame has ended the direction it only looks
// for the peer's own. mu is held.
func (d *direction) write(p []byte) error {
	if d.goingAway.Load() {
		return d.writeToBoundary(p)
	}
	d.scan.scan(p)
	return d.emit(p)
}

func (d *direction) writeToBoundary(p []byte) error {
	if !d.closed && !d.scan.atBoundary() {
		n := d.scan.scanToBoundary(p)
		if err := d.emit(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	if err := d.writeClose(); err != nil {
		return err
	}
	d.scan.scan(p)
	d.noteClose()
	if d.closed && d.code.Load() != 0 {
		return errPeerClosed
	}
	return nil
}

// emit writes p, which has been scanned, to dst.
func (d *direction) emit(p []byte) error {
	d.frames.Store(d.scan.frames)
	d.noteClose()
	n, err := d.dst.Write(p)
	d.bytes.Add(uint64(len(p)))
	if err != nil {
		d.lost, d.failed = len(p)-n, err
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}

// toldOfBreak waits for a write that is under way and returns why it, or one before, has
// failed, if that says that the connection has broken. EPIPE says that it had ended in
// order before.
func (d *direction) toldOfBreak() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errno, ok := errors.AsType[syscall.Errno](d.failed); ok && errno != syscall.EPIPE {
		return errno
	}
	return nil
}

func (d *direction) noteClose() {
	if d.code.Load() == 0 && d.scan.closeCode != 0 {
		d.code.Store(int32(d.scan.closeCode))
		d.closer.CompareAndSwap(nil, &d.from)
	}
}

// goAway puts a Close frame into the direction, which is goingAway: now if it
// stands at a boundary, else whoever copies does so at the next one.
func (d *direction) goAway() error {
	if !d.mu.TryLock() {
		return nil // forward holds it, and looks at goingAway afterwards
	}
	defer d.mu.Unlock()
	return d.writeClose()
}

// writeLast has a Close frame that was asked for go ahead of the end of src, which
// nothing may follow.
func (d *direction) writeLast() (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.goingAway.Load() {
		err = d.writeClose()
	}
	d.closed = true
	return err
}

// seal waits for a write that is under way, and lets no Close frame begin. It returns
// how many bytes were lost in a write that failed.
func (d *direction) seal() (lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.lost
}

// writeClose writes the Close frame if the direction stands at a boundary and
// none has passed yet. mu is held.
func (d *direction) writeClose() error {
	if d.scan.closeCode != 0 {
		d.closed = true // by the peer's own, maybe in the middle of a message
	}
	if d.closed || !d.scan.atBoundary() {
		return nil
	}
	d.closed = true
	if _, err := d.dst.Write(closeFrame(closeGoingAway, d.masked)); err != nil {
		d.failed = err
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}

// isOrderly reports whether err is an orderly end of a direction.
func isOrderly(err error) bool {
	return err == io.EOF || err == errPeerClosed || err == errOtherEnded
}
