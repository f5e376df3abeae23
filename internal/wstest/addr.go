package wstest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports below those that systems give to outgoing connections and to whoever asks for
// any, which would take one between its choice here and its use. Each process has a block
// of them to itself.
const (
	firstPort = 10000
	blockSize = 1000
	blocks    = 22
)

var (
	portsMu   sync.Mutex   // protects what follows
	block     net.Listener // holds the block, by its first port, until the process ends
	blockPort int          // its first port
	used      int          // how many of its ports have been given out
)

// holdBlock chooses a block that no other process has.
func holdBlock() (err error) {
	for _, i := range rand.Perm(blocks) {
		blockPort = firstPort + i*blockSize
		if block, err = net.Listen("tcp", loopback(blockPort)); err == nil {
			return nil
		}
	}
	return err
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreeAddr returns a loopback address that nobody listens on, by TCP or UDP, and
// that it has not returned lately.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	addr, err := FindFreeAddr()
	if err != nil {
		tb.Fatal(err)
	}
	return addr
}

// FindFreeAddr is FreeAddr outside tests.
func FindFreeAddr() (string, error) {
	portsMu.Lock()
	defer portsMu.Unlock()
	if block == nil {
		if err := holdBlock(); err != nil {
			return "", err
		}
	}
	for range blockSize {
		used++
		if addr := loopback(blockPort + 1 + used%(blockSize-1)); isFree(addr) {
			return addr, nil
		}
	}
	return "", errors.New("no port is free")
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

// DeadAddr returns a loopback address that refuses connections until the test ends, and is
// as FreeAddr's besides. It is that of a connection's near end, so that nobody can listen
// on it meanwhile.
func DeadAddr(tb testing.TB) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { listener.Close() })
	addr, err := net.ResolveTCPAddr("tcp", FreeAddr(tb))
	if err != nil {
		tb.Fatal(err)
	}
	dialer := net.Dialer{LocalAddr: addr}
	conn, err := dialer.Dial("tcp", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return addr.String()
}
