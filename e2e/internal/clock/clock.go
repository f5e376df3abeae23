// Package clock sets the clock of another process, and of no other, as an administrator
// or NTP sets a machine's: CLOCK_REALTIME jumps, CLOCK_MONOTONIC does not.
//
// A Go program reads both from the vDSO, not from libc, so libfaketime, which is a
// library in front of libc, does not reach it; time namespaces have no CLOCK_REALTIME.
// So the function of the vDSO is replaced in the process's memory. It needs Linux on
// x86-64, and ptrace(2)'s permission.
package clock

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Clock is that of one process.
type Clock struct {
	pid      int
	vdso     int64 // where it is
	function int64 // clock_gettime's offset in it
	room     int64 // the offset of what nobody uses
	original [5]byte
}

// ErrUnsupported says that there is no code for this processor.
var ErrUnsupported = errors.New("the clock can be set on x86-64 only")

// Of returns the clock of a process.
func Of(pid int) (*Clock, error) {
	if runtime.GOARCH != "amd64" {
		return nil, ErrUnsupported
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, "[vdso]\n") {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return nil, err
		}
		return inspect(pid, from, make([]byte, to-from))
	}
	return nil, fmt.Errorf("process %d has no vDSO", pid)
}

// inspect finds the function, and room at the end of the last page.
func inspect(pid int, vdso int64, image []byte) (*Clock, error) {
	c := &Clock{pid: pid, vdso: vdso}
	err := c.memory(func(memory *os.File) error {
		_, err := memory.ReadAt(image, vdso)
		return err
	})
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return nil, err
	}
	for _, symbol := range symbols {
		if symbol.Name == "__vdso_clock_gettime" {
			c.function = int64(symbol.Value)
		}
	}
	c.room = int64(len(image) - len(code(0)))
	if c.function == 0 || len(bytes.Trim(image[c.room:], "\x00")) > 0 {
		return nil, errors.New("this vDSO is not like those that are known")
	}
	copy(c.original[:], image[c.function:])
	return c, nil
}

// code is clock_gettime(2) without the vDSO, with offset added to CLOCK_REALTIME.
func code(offset time.Duration) []byte {
	seconds := binary.LittleEndian.AppendUint64(nil, uint64(offset/time.Second))
	return bytes.Join([][]byte{
		{0xb8, 228, 0, 0, 0},  // mov eax, SYS_clock_gettime
		{0x0f, 0x05},          // syscall
		{0x85, 0xff},          // test edi, edi: the clock, which is 0
		{0x75, 13},            // jne to ret
		{0x48, 0xb9}, seconds, // mov rcx, seconds
		{0x48, 0x01, 0x0e}, // add [rsi], rcx: tv_sec
		{0xc3},             // ret
	}, nil)
}

// Set has the clock be offset, in whole seconds, from the machine's.
func (c *Clock) Set(offset time.Duration) error {
	jump := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(c.room-c.function-5))
	return c.write(code(offset), jump)
}

// Reset has the clock be the machine's again.
func (c *Clock) Reset() error { return c.write(nil, c.original[:]) }

// write changes the process while it is stopped.
func (c *Clock) write(code, entry []byte) error {
	defer syscall.Kill(c.pid, syscall.SIGCONT)
	if err := c.stop(); err != nil {
		return err
	}
	return c.memory(func(memory *os.File) error {
		if _, err := memory.WriteAt(code, c.vdso+c.room); err != nil {
			return err
		}
		_, err := memory.WriteAt(entry, c.vdso+c.function)
		return err
	})
}

func (c *Clock) memory(use func(*os.File) error) error {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", c.pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	return use(memory)
}

// stop stops the process where no thread is about to execute what is overwritten.
func (c *Clock) stop() error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err := syscall.Kill(c.pid, syscall.SIGSTOP); err != nil {
			return err
		}
		for range 100 {
			stopped, away := c.threads()
			if stopped && away {
				return nil
			}
			if stopped {
				break
			}
			time.Sleep(time.Millisecond) // the kernel tells only the parent
		}
		if err := syscall.Kill(c.pid, syscall.SIGCONT); err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not stop", c.pid)
}

// threads says whether all are stopped, and whether they are away from what is
// overwritten (proc(5), /proc/pid/syscall: the last field is the program counter).
func (c *Clock) threads() (stopped, away bool) {
	dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", c.pid)) // the pattern is well formed
	away = true
	for _, dir := range dirs {
		call, err := os.ReadFile(filepath.Join(dir, "syscall"))
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(call))
		if len(fields) < 2 {
			return false, false // "running"
		}
		var counter int64
		if _, err := fmt.Sscanf(fields[len(fields)-1], "0x%x", &counter); err != nil {
			return false, false
		}
		if at := counter - c.vdso; at > c.function && at < c.function+int64(len(c.original)) || at >= c.room && at < c.room+64 {
			away = false
		}
	}
	return len(dirs) > 0, away
}
