package integration_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// relay is an HTTP server over TLS that tells what it was asked.
type relay struct {
	*httptest.Server
	requests chan asked
}

// asked is a request as the relay saw it.
type asked struct {
	*http.Request
	body string
}

// newRelay runs a relay until the test ends. It reads each request wholly before it
// responds: as respondToAll unless respond says otherwise.
func newRelay(t *testing.T, respond http.HandlerFunc, options ...func(*httptest.Server)) *relay {
	t.Helper()
	if respond == nil {
		respond = respondToAll
	}
	r := &relay{requests: make(chan asked, 64)}
	r.Server = serve(t, func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.requests <- asked{req.Clone(context.Background()), string(body)}
		respond(w, req)
	}, options...)
	return r
}

// respondToAll accepts WebSockets and echoes their messages, and responds to other
// requests with 200 and "relay".
func respondToAll(w http.ResponseWriter, r *http.Request) {
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

// serve runs a relay whose handler has the body to itself.
func serve(t *testing.T, handler http.HandlerFunc, options ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = leaf.ServerConfig()
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // what tests break on purpose
	for _, option := range options {
		option(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func withHTTP2(server *httptest.Server) { server.EnableHTTP2 = true }

// next returns what the relay was asked next.
func (r *relay) next(t *testing.T) asked {
	t.Helper()
	return await(t, r.requests, "request to the relay")
}

// saw reports whether the relay has been asked more than the test knows.
func (r *relay) saw() bool { return len(r.requests) > 0 }

// wantNoRequest checks that the relay has not been asked more than the test knows.
func (r *relay) wantNoRequest(t *testing.T) {
	t.Helper()
	select {
	case a := <-r.requests:
		t.Errorf("the relay was asked %s %s", a.Method, a.URL)
	default:
	}
}

// flush sends what w holds.
func flush(w http.ResponseWriter) { http.NewResponseController(w).Flush() }

// rawRelay gives each connection, after TLS, to handle.
func rawRelay(t *testing.T, handle func(*wstest.Conn)) *wstest.Relay {
	return rawRelayWith(t, leaf.ServerConfig("http/1.1"), handle)
}

// rawRelayWith is rawRelay with another configuration of TLS, or with none if it is nil.
// When the test ends, what handle still has to check is waited for.
func rawRelayWith(t *testing.T, config *tls.Config, handle func(*wstest.Conn)) *wstest.Relay {
	t.Helper()
	relay := wstest.NewRelay(t, config, handle)
	if handle != nil {
		t.Cleanup(relay.Wait)
	}
	return relay
}

// respondWith is a relay that sends text for each request, and closes the connection
// where close says so.
func respondWith(t *testing.T, text string, close bool) *wstest.Relay {
	return rawRelay(t, func(c *wstest.Conn) {
		for {
			if _, err := c.ReadRequest(); err != nil {
				return
			}
			if c.WriteText(text) != nil || close {
				return
			}
		}
	})
}

// https returns the upstream that leads to a relay.
func https(relay *wstest.Relay) string { return "https://" + relay.Addr }

// sniRelay runs a relay that refuses everything. names gets the name that each TLS
// handshake asks for.
func sniRelay(t *testing.T) (relay *wstest.Relay, names chan string) {
	t.Helper()
	names = make(chan string, 4)
	config := leaf.ServerConfig("http/1.1")
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- hello.ServerName
		return nil, nil
	}
	return wstest.NewRelay(t, config, func(c *wstest.Conn) {
		c.ReadRequest()
		c.WriteResponse("403 Forbidden", "", "Connection: close")
	}), names
}

// connectTo is what a forward proxy does when it has connected.
func connectTo(c *wstest.Conn, to net.Conn) {
	defer to.Close()
	c.WriteText("HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(to, c.R)
		to.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, to)
}
