package reloadtest

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestStopJammedHTTP2: an HTTP/2 client with no request under way that takes nothing, so
// that the server cannot even say GOAWAY, does not hold up the stop.
func TestStopJammedHTTP2(t *testing.T) {
	if !*full {
		t.Skip("it fills the 3 MB that the system keeps for the client, 39 bytes at a time; see -full")
	}
	t.Parallel()
	const window = time.Second
	for name, test := range map[string]struct {
		path   string
		reload bool
	}{
		"after nothing":                       {"", false},
		"after another's request, and reload": {"/version", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, relay := writeCertificates(t), startRelay(t)
			cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window}
			p := startProxy(t, dir, "a", cfg.addr, cfg.String())
			jamHTTP2(t, cfg.addr, test.path)
			if test.reload {
				cfg.version++
				p.load(cfg.String())
			}
			begun := time.Now()
			p.signal(syscall.SIGTERM)
			checkStopped(t, p, begun, window)
		})
	}
}

// jamHTTP2 opens a connection, asks for path unless it is empty, and then jams it.
func jamHTTP2(t testing.TB, addr, path string) {
	t.Helper()
	conn, framer := beginHTTP2(t, addr)
	if path != "" {
		sendGet(t, framer, path)
		awaitResponse(t, framer)
	}
	jam(t, conn, framer)
}

// beginHTTP2 opens a connection.
func beginHTTP2(t testing.TB, addr string) (*tls.Conn, *http2.Framer) {
	t.Helper()
	conn := dialSmall(t, addr)
	framer := http2.NewFramer(conn, conn)
	io.WriteString(conn, http2.ClientPreface)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return conn, framer
}

// jam sends PINGs until the server cannot write any more. It keeps 10,000 that it cannot
// acknowledge, and then closes: no more are sent than it has read.
func jam(t testing.TB, conn *tls.Conn, framer *http2.Framer) {
	t.Helper()
	for unsent, same := -1, 0; same < 3; {
		for range 500 {
			if err := framer.WritePing(false, [8]byte{}); err != nil {
				t.Fatal(err)
			}
		}
		unread, now := 1, 0
		for unread > 0 {
			time.Sleep(time.Millisecond)
			unread, now = queues(t, conn.RemoteAddr(), conn.LocalAddr())
		}
		if now != unsent {
			unsent, same = now, 0
			continue
		}
		same++
		time.Sleep(50 * time.Millisecond) // what has been read may still be on its way through
	}
}

// dialSmall connects for HTTP/2 with a small receive buffer.
func dialSmall(t testing.TB, addr string) *tls.Conn {
	t.Helper()
	config := clientTLS()
	config.NextProtos = []string{"h2"}
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		controlErr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
		if controlErr != nil {
			return controlErr
		}
		return err
	}}
	conn, err := tls.DialWithDialer(&dialer, "tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// sendGet asks for path on the first stream.
func sendGet(t testing.TB, framer *http2.Framer, path string) {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}} {
		enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	head := http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}
	if err := framer.WriteHeaders(head); err != nil {
		t.Fatal(err)
	}
}

// awaitResponse reads the response on the first stream to its end.
func awaitResponse(t testing.TB, framer *http2.Framer) {
	t.Helper()
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h := f.Header(); h.StreamID == 1 && h.Flags.Has(http2.FlagDataEndStream) {
			return
		}
	}
}

// queues returns how many bytes wait in the kernel at the local end of a connection within
// this machine: to be read there, and to be taken by the remote end.
func queues(t testing.TB, local, remote net.Addr) (unread, unsent int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	ends := inTable(local) + " " + inTable(remote)
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); fields[1]+" "+fields[2] == ends {
			fmt.Sscanf(fields[4], "%X:%X", &unsent, &unread)
			return unread, unsent
		}
	}
	t.Fatalf("no connection %v to %v", local, remote)
	return 0, 0
}

// inTable returns an IPv4 address as the kernel's table has it.
func inTable(addr net.Addr) string {
	tcp := addr.(*net.TCPAddr)
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port)
}
