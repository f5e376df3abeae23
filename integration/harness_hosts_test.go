package integration_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// hosts are the addresses of relay.example: 127.0.0.2, 127.0.0.3 and so on, with one port
// at which they listen.
type hosts struct {
	names     *nameServer
	addrs     []string
	listeners []net.Listener
	port      int
}

// newHosts has a name server give n addresses for relay.example.
func newHosts(t *testing.T, n int) *hosts {
	t.Helper()
	h := &hosts{names: newNameServer(t)}
	for i := range n {
		h.addrs = append(h.addrs, fmt.Sprintf("127.0.0.%d", i+2))
	}
	var err error
	for range 100 {
		if err = h.listen(); err == nil {
			t.Cleanup(h.close)
			h.names.set("relay.example", h.addrs...)
			return h
		}
		h.close()
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Skip("127.0.0.1 is the only loopback address of this system")
	}
	t.Fatal(err)
	return nil
}

func (h *hosts) listen() error {
	h.port, h.listeners = 0, nil
	for _, addr := range h.addrs {
		ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", addr, h.port))
		if err != nil {
			return err
		}
		h.port = ln.Addr().(*net.TCPAddr).Port
		h.listeners = append(h.listeners, ln)
	}
	return nil
}

func (h *hosts) close() {
	for _, ln := range h.listeners {
		ln.Close()
	}
}

func (h *hosts) upstream(scheme string) string {
	return fmt.Sprintf("%s://relay.example:%d", scheme, h.port)
}

// relay has host i be a relay.
func (h *hosts) relay(t *testing.T, i int, options ...func(*httptest.Server)) *relay {
	t.Helper()
	return newRelay(t, nil, append(options, func(server *httptest.Server) {
		server.Listener.Close()
		server.Listener = h.listeners[i]
	})...)
}

// plainRelay has host i be a relay without TLS.
func (h *hosts) plainRelay(t *testing.T, i int) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(respondToAll))
	server.Listener.Close()
	server.Listener = h.listeners[i]
	server.Start()
	t.Cleanup(server.Close)
}

// serve has handle take the connections of host i, until the test ends. It returns how
// many there have been.
func (h *hosts) serve(t *testing.T, i int, handle func(net.Conn)) *atomic.Int64 {
	t.Helper()
	accepted := new(atomic.Int64)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := h.listeners[i].Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			serving.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		h.listeners[i].Close()
		serving.Wait()
	})
	return accepted
}

// refuse has host i refuse connections.
func (h *hosts) refuse(i int) { h.listeners[i].Close() }

// kill has host i take no SYN any more: its backlog is full. revive undoes that.
func (h *hosts) kill(t *testing.T, i int) (revive func()) {
	t.Helper()
	raw, err := h.listeners[i].(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var listenErr error
	if err := raw.Control(func(fd uintptr) { listenErr = limitBacklog(fd, 0) }); err != nil || listenErr != nil {
		t.Fatal(err, listenErr)
	}
	filler, err := net.Dial("tcp", h.listeners[i].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { filler.Close() })
	return func() {
		t.Helper()
		conn, err := h.listeners[i].Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		filler.Close()
	}
}

// transport is the option that asks h's name server for names, and waits for no address
// but for what a test is about. Others of the transport may follow.
func (h *hosts) transport(options ...string) string {
	return h.names.transport("dial_timeout 1h", strings.Join(options, "\n"))
}
