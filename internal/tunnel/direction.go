package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// direction carries the bytes of one leg to the other.
type direction struct {
	src, dst Leg
	from     string // the side that src is: ByClient or ByRelay
	masked   bool   // frames of this direction are masked: it leads to a server

	// closer is the tunnel's: the side whose Close frame came first.
	closer *atomic.Pointer[string]

	bytes  atomic.Uint64 // forwarded
	frames atomic.Uint64 // begun
	code   atomic.Int32  // of the Close frame that passed; 0 for none

	// goingAway asks for a Close frame at the next boundary.
	goingAway atomic.Bool

	// mu makes whoever holds it the one writer of dst. It protects what follows.
	mu     sync.Mutex
	scan   scanner
	closed bool // a Close frame has been written; nothing may follow it
}

var (
	// errPeerClosed ends a direction whose peer has answered our Close frame.
	errPeerClosed = errors.New("close frame answered")
	// errWrite marks a failure of the destination, not of the source.
	errWrite = errors.New("writing")
)

// copy forwards until src ends or dst fails, and says why: io.EOF is an orderly
// end of src. touch is called for each piece.
func (d *direction) copy(touch func()) error {
	for {
		buf, n, err := d.src.receive()
		if n > 0 {
			touch()
			if werr := d.forward(buf[:n]); werr != nil {
				err = werr
			}
		}
		giveBuffer(buf)
		if err != nil {
			return err
		}
	}
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
	d.bytes.Add(uint64(n))
	if err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
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
// stands at a boundary, else the goroutine that copies does so at the next one.
func (d *direction) goAway() error {
	if !d.mu.TryLock() {
		return nil // forward holds it, and looks at goingAway afterwards
	}
	defer d.mu.Unlock()
	return d.writeClose()
}

// writeLast has a Close frame that was asked for go ahead of the end of src.
func (d *direction) writeLast() error {
	if !d.goingAway.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeClose()
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
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}

// isEOF reports whether err is an orderly end of the source.
func isEOF(err error) bool { return err == io.EOF || err == errPeerClosed }
