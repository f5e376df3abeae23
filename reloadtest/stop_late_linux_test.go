package reloadtest

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestStopJammedLate: an HTTP/2 connection that takes nothing carries another site's
// request when the time is up, so the stop waits for that. When that is canceled, the
// connection carries nothing any more, and the stop goes on.
func TestStopJammedLate(t *testing.T) {
	if !*full {
		t.Skip("it fills the 3 MB that the system keeps for the client, 39 bytes at a time; see -full")
	}
	t.Parallel()
	const window = 100 * time.Millisecond
	dir, relay := writeCertificates(t), startRelay(t)
	silent, asked := startSilent(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, site: "reverse_proxy /silent " + silent}
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	conn, framer := beginHTTP2(t, cfg.addr)
	sendGet(t, framer, "/silent")
	<-asked
	jam(t, conn, framer)
	upload := beginUpload(t, cfg.addr)
	p.signal(syscall.SIGTERM)
	io.Copy(io.Discard, upload) // ends when the time is up
	if err := framer.WriteRSTStream(1, http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	if code := p.awaitExit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// startSilent runs a server that says nothing. asked is closed when it has a request.
func startSilent(t *testing.T) (addr string, asked chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	asked = make(chan struct{})
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Read(make([]byte, 1))
		close(asked)
		io.Copy(io.Discard, conn)
	}()
	return listener.Addr().String(), asked
}

// beginUpload begins a request of the proxy's that is never complete.
func beginUpload(t *testing.T, addr string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, clientTLS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, "POST /websocket/trace HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
	return conn
}

// TestStopWhileLoadingWithDelay: the process is told to stop while a load is in its
// shutdown_delay. The stop begins with the old server's shutdown, and its time is up within
// the shutdown_delay of the new one, to which an HTTP/3 client holds on.
func TestStopWhileLoadingWithDelay(t *testing.T) {
	if !*full {
		t.Skip("it takes two shutdown_delays; see -full")
	}
	t.Parallel()
	const window, delay = 100 * time.Millisecond, 7 * time.Second
	dir, relay := writeCertificates(t), startRelay(t)
	cfg := config{dir: dir, addr: reserve(t), upstream: relay.addr, window: window, servers: "protocols h1 h2 h3"}
	cfg.global = "shutdown_delay " + delay.String()
	second := cfg
	cfg.sites = "http://" + reserve(t) + " {\nrespond dropped\n}"
	p := startProxy(t, dir, "a", cfg.addr, cfg.String())
	go p.tryLoad(second.String()) // fails when the process ends before
	p.awaitLogs("shutdown scheduled", 1)
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	p.awaitLogs("shutdown scheduled", 2)
	_, conn := dialQUIC(t, cfg.addr)
	if _, err := conn.AcceptUniStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkStopped(t, p, begun, 2*delay+window)
}
