package watchrtcproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
)

// sighting is what a relay saw of one request.
type sighting struct {
	*http.Request
	body []byte
}

// relayServer is a relay that says what it has seen.
type relayServer struct {
	*httptest.Server
	seen chan sighting
}

// newRelay runs a relay behind TLS until the test ends. answer may be nil.
func newRelay(t *testing.T, answer http.HandlerFunc, options ...func(*httptest.Server)) *relayServer {
	t.Helper()
	r := &relayServer{seen: make(chan sighting, 64)}
	if answer == nil {
		answer = answerAll
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.seen <- sighting{req.Clone(context.Background()), body}
		answer(w, req)
	}))
	serve(t, r.Server, options...)
	return r
}

// newStreamingRelay is a relay whose handler has the body to itself.
func newStreamingRelay(t *testing.T, handler http.HandlerFunc, options ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	serve(t, server, options...)
	return server
}

func serve(t *testing.T, server *httptest.Server, options ...func(*httptest.Server)) {
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // what tests break on purpose
	for _, option := range options {
		option(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
}

func withHTTP2(server *httptest.Server) { server.EnableHTTP2 = true }

// answerAll accepts WebSockets and echoes their messages, and answers other
// requests with 200.
func answerAll(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		io.WriteString(w, "relay")
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"2.0"}})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	for {
		kind, message, err := ws.Read(context.Background())
		if err != nil {
			return
		}
		if err := ws.Write(context.Background(), kind, message); err != nil {
			return
		}
	}
}

// next returns what the relay saw next.
func (r *relayServer) next(t *testing.T) sighting {
	t.Helper()
	select {
	case s := <-r.seen:
		return s
	case <-time.After(patience):
		t.Fatal("the relay has seen nothing")
		return sighting{}
	}
}

// saw reports whether the relay has seen anything that nobody asked for yet.
func (r *relayServer) saw() bool { return len(r.seen) > 0 }

// newRawRelay gives each connection, behind TLS unless config is nil, to handle.
// It returns the address and waits for all handlers when the test ends.
func newRawRelay(t *testing.T, config *tls.Config, handle func(*rawConn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				c := &rawConn{Conn: conn}
				if config != nil {
					c.Conn = tls.Server(conn, config)
				}
				c.r = bufio.NewReader(c.Conn)
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		handlers.Wait()
	})
	return ln.Addr().String()
}

func relayTLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate}}
}

// rawConn is a connection that a relay has accepted.
type rawConn struct {
	net.Conn
	r *bufio.Reader
}

// request reads one request, body included.
func (c *rawConn) request() (*http.Request, error) {
	req, err := http.ReadRequest(c.r)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, req.Body)
	return req, err
}

// head reads the head of a request, as bytes.
func (c *rawConn) head() (string, error) {
	head := ""
	for {
		line, err := c.r.ReadString('\n')
		head += line
		if err != nil || line == "\r\n" {
			return head, err
		}
	}
}

func (c *rawConn) write(s string) error {
	_, err := io.WriteString(c.Conn, s)
	return err
}

// upgrade reads a handshake and accepts it. What follows, extra, goes out in the
// same write.
func (c *rawConn) upgrade(extra string, fields ...string) (*http.Request, error) {
	req, err := c.request()
	if err != nil {
		return nil, err
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Accept: " + handshake.Accept(req.Header.Get("Sec-Websocket-Key")) + "\r\n"
	for _, field := range fields {
		answer += field + "\r\n"
	}
	return req, c.write(answer + "\r\n" + extra)
}

// drain reads until the peer is done, and reports whether it ended in an orderly
// way.
func (c *rawConn) drain() ([]byte, error) {
	rest, err := io.ReadAll(c.r)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return rest, err
}
