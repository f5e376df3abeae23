package integration_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// afterPreamble takes the PROXY protocol's line off each connection.
type afterPreamble struct{ net.Listener }

func (l afterPreamble) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	for b := []byte{0}; b[0] != '\n' && err == nil; {
		_, err = conn.Read(b)
	}
	conn.SetReadDeadline(time.Time{})
	return conn, nil
}

// TestMaxConnsOfProxyProtocol: where each request has a connection of its own, there are no
// more of these at once than max_conns_per_host allows.
func TestMaxConnsOfProxyProtocol(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		var now, most atomic.Int64
		relay := serve(t, func(http.ResponseWriter, *http.Request) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(20 * time.Millisecond)
			now.Add(-1)
		}, func(s *httptest.Server) { s.Listener, s.EnableHTTP2 = afterPreamble{s.Listener}, http2 })
		p := start(t, mount(relay.URL, transport("proxy_protocol v1\nmax_conns_per_host 2")))
		c := p.client(t, http2x)
		var requests sync.WaitGroup
		for range 12 {
			requests.Go(func() {
				response, err := c.Post(p.url("/websocket/trace"), "text/plain", strings.NewReader("{}"))
				if err != nil || response.StatusCode != http.StatusOK {
					t.Error(response, err)
				}
			})
		}
		requests.Wait()
		if n := most.Load(); n > 2 {
			t.Errorf("HTTP/2 %v: %d requests at once", http2, n)
		}
		p.stop(t)
	}
}

// TestGivenUpWhileConnecting has clients give up at any time, also when a connection over
// HTTP/2 of their own has just been made. None of these stays.
func TestGivenUpWhileConnecting(t *testing.T) {
	var open atomic.Int64
	relay := serve(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }, func(s *httptest.Server) {
		s.Listener, s.EnableHTTP2 = afterPreamble{s.Listener}, true
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
			}
		}
	})
	p := start(t, mount(relay.URL, transport("proxy_protocol v1")))
	c := p.client(t, http2x)
	var requests sync.WaitGroup
	for range 500 {
		requests.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond+rand.N(20*time.Millisecond))
			defer cancel()
			if response, err := c.Do(request(t, "POST", p.url("/websocket/trace"), io.MultiReader(strings.NewReader("{}"))).WithContext(ctx)); err == nil {
				response.Body.Close()
			}
		})
		time.Sleep(time.Millisecond)
	}
	requests.Wait()
	awaitTrue(t, "end of all connections", func() bool { return open.Load() == 0 })
}

// TestKeepaliveOffOverHTTP2: with keepalive off each request has a connection of its own
// also over HTTP/2. None is closed under others' requests.
func TestKeepaliveOffOverHTTP2(t *testing.T) {
	var connections atomic.Int64
	relay := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		flush(w)
		time.Sleep(rand.N(3 * time.Millisecond))
	}, func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
	})
	p := start(t, mount(relay.URL, transport("keepalive off")))
	c := p.client(t, http2x)
	const clients, each = 20, 20
	var requests sync.WaitGroup
	for range clients {
		requests.Go(func() {
			for range each {
				response, err := c.Post(p.url("/websocket/trace"), "text/plain", io.MultiReader(strings.NewReader("{}")))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, response.Body); response.StatusCode != http.StatusOK || err != nil {
					t.Error(response.Status, err)
				}
				response.Body.Close()
			}
		})
	}
	requests.Wait()
	if n := connections.Load(); n != clients*each {
		t.Errorf("%d connections for %d requests", n, clients*each)
	}
}
