package caddy

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports below those that the kernel gives to outgoing connections, which would
// take one between its choice here and its use.
const (
	firstPort = 20000
	lastPort  = 32000
)

var (
	nextMu sync.Mutex // protects next
	next   = firstPort + rand.IntN(lastPort-firstPort)
)

// FreeAddr returns a loopback address that nobody listens on, by TCP or UDP, and
// that it has not returned lately.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	nextMu.Lock()
	defer nextMu.Unlock()
	for range lastPort - firstPort {
		next++
		if next > lastPort {
			next = firstPort
		}
		if addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(next)); isFree(addr) {
			return addr
		}
	}
	tb.Fatal("no port is free")
	return ""
}

func isFree(addr string) bool {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer listener.Close()
	packets, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	packets.Close()
	return true
}
