package caddy

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// reloadGrace is how long a replaced configuration may go on listening.
const reloadGrace = 10 * time.Second

// awaitReload waits until a replaced configuration has stopped listening. Caddy
// responds before that, and net/http closes without a response what a server accepts
// in its last moment: a client of such a connection tries again, but a test that
// expects a response would fail. It needs Linux.
func (c *Caddy) awaitReload(tb testing.TB) {
	tb.Helper()
	deadline := time.Now().Add(reloadGrace)
	for {
		addrs := c.listening()
		if len(addrs) == 0 {
			tb.Fatal("/proc shows no listener of Caddy, not even that of its admin endpoint")
		}
		addr := sharedAddr(addrs)
		if addr == "" {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("after %v two configurations listen on %s (in /proc/net's notation)", reloadGrace, addr)
		}
		time.Sleep(time.Millisecond) // the kernel tells nobody about others' sockets
	}
}

// sharedAddr returns an address that is in addrs twice, if there is one.
func sharedAddr(addrs []string) string {
	seen := make(map[string]bool)
	for _, addr := range addrs {
		if seen[addr] {
			return addr
		}
		seen[addr] = true
	}
	return ""
}

// listening returns the address of each TCP socket this Caddy listens on (proc(5),
// /proc/net/tcp).
func (c *Caddy) listening() []string {
	const listen = "0A" // in column 3; the address is in column 1, the inode in column 9
	dir := filepath.Join("/proc", strconv.Itoa(c.Pid()))
	own := sockets(dir)
	var addrs []string
	for _, table := range []string{"tcp", "tcp6"} {
		text, _ := os.ReadFile(filepath.Join(dir, "net", table)) // none without IPv6
		for line := range bytes.Lines(text) {
			fields := bytes.Fields(line)
			if len(fields) > 9 && string(fields[3]) == listen && own[string(fields[9])] {
				addrs = append(addrs, string(fields[1]))
			}
		}
	}
	return addrs
}

// sockets returns the inodes of the sockets that the process of dir has open.
func sockets(dir string) map[string]bool {
	inodes := make(map[string]bool)
	files, _ := filepath.Glob(filepath.Join(dir, "fd", "*")) // the pattern is well formed
	for _, file := range files {
		target, _ := os.Readlink(file) // it may be closed by now
		if inode, found := strings.CutPrefix(target, "socket:["); found {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return inodes
}
