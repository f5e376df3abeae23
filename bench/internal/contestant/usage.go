package contestant

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the processor time, in user and kernel mode, that all threads of
// all the process's processes have used so far.
func (p *Process) CPU() (time.Duration, error) {
	var total time.Duration
	err := p.each(func(pid int) error {
		used, err := cpuOf(pid)
		total += used
		return err
	})
	return total, err
}

// OwnCPU is the same of this program, without what it started.
func OwnCPU() (time.Duration, error) { return cpuOf(os.Getpid()) }

// cpuOf reads the CPU-time clock of a process, which counts nanoseconds where
// /proc/PID/stat counts ticks of 10 ms.
func cpuOf(pid int) (time.Duration, error) {
	var ts unix.Timespec
	clock := int32(^pid<<3 | 2) // as clock_getcpuclockid makes it
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// PSS returns the memory of all the process's processes in bytes: what each
// has alone, and its share of what it has together with others.
func (p *Process) PSS() (int64, error) {
	var total int64
	err := p.each(func(pid int) error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return err
		}
		pss, err := parsePSS(string(b))
		total += pss
		return err
	})
	return total, err
}

func parsePSS(smaps string) (int64, error) {
	for line := range strings.Lines(smaps) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in %q", smaps)
}

// each calls f with the process and each of its descendants.
func (p *Process) each(f func(pid int) error) error {
	children, err := processTree()
	if err != nil {
		return err
	}
	queue := []int{p.cmd.Process.Pid}
	for len(queue) > 0 {
		pid := queue[0]
		queue = append(queue[1:], children[pid]...)
		if err := f(pid); err != nil {
			return err
		}
	}
	return nil
}

// processTree returns the children of each process.
func processTree() (map[int][]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // It has ended meanwhile.
		}
		pid, parent, err := parseStat(string(b))
		if err != nil {
			return nil, err
		}
		children[parent] = append(children[parent], pid)
	}
	return children, nil
}

// parseStat reads "pid (name) state parent …", where the name may hold
// anything.
func parseStat(stat string) (pid, parent int, err error) {
	if end := strings.LastIndexByte(stat, ')'); end >= 0 {
		if _, err = fmt.Sscan(stat, &pid); err == nil {
			var state string
			_, err = fmt.Sscan(stat[end+1:], &state, &parent)
		}
		return pid, parent, err
	}
	return 0, 0, fmt.Errorf("no process: %q", stat)
}
