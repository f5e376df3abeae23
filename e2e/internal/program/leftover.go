package program

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// runVar marks each process that a run starts, and its children.
const runVar = "WATCHRTC_E2E_RUN"

var runID = fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano())

// Leftovers waits until no process of this run is left but this one, and returns
// those that do not go. It needs Linux.
func Leftovers(patience time.Duration) []string {
	deadline := time.Now().Add(patience)
	for {
		left := leftovers()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		time.Sleep(50 * time.Millisecond) // the kernel tells nobody about grandchildren
	}
}

func leftovers() []string {
	var left []string
	environs, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is well formed
	for _, path := range environs {
		environ, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(environ, []byte(runVar+"="+runID)) {
			continue
		}
		dir := filepath.Dir(path)
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if len(cmdline) == 0 {
			continue // a zombie: its parent has yet to notice
		}
		left = append(left, filepath.Base(dir)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	}
	return left
}
