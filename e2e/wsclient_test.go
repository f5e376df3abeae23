package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gorilla/websocket"
)

// wsClient is a client of some library. It uses the message types 1 and 2, as on
// the wire.
type wsClient interface {
	// send sends a message in fragments, with a ping before each but the first.
	send(t *testing.T, kind int, fragments ...[]byte)
	receive(t *testing.T) (kind int, data []byte)
	// close sends a Close frame, and waits for the server's.
	close(t *testing.T, code int, reason string)
	// closed returns how the server has closed.
	closed(t *testing.T) (code int, reason string)
	// pongs returns how many have come.
	pongs() int
}

type gorillaClient struct {
	*websocket.Conn
	got int
}

// dialGorilla opens a connection, compressed if the server agrees.
func dialGorilla(t *testing.T, s *setup, compress bool) wsClient {
	t.Helper()
	dialer := websocket.Dialer{
		TLSClientConfig:   &tls.Config{RootCAs: s.ca.Pool},
		EnableCompression: compress,
	}
	ws, response, err := dialer.DialContext(soon(t), s.url("wss"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	checkCompression(t, response, compress)
	c := &gorillaClient{Conn: ws}
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	ws.SetPongHandler(func(string) error { c.got++; return nil })
	return c
}

func checkCompression(t *testing.T, response *http.Response, want bool) {
	t.Helper()
	if got := response.Header.Get("Sec-WebSocket-Extensions") != ""; got != want {
		t.Fatalf("compression: %v, want %v", got, want)
	}
}

func (c *gorillaClient) send(t *testing.T, kind int, fragments ...[]byte) {
	t.Helper()
	w, err := c.NextWriter(kind)
	for i, fragment := range fragments {
		if i > 0 && err == nil {
			err = c.WriteControl(websocket.PingMessage, []byte{byte(i)}, time.Now().Add(patience))
		}
		if err == nil {
			_, err = w.Write(fragment)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *gorillaClient) receive(t *testing.T) (int, []byte) {
	t.Helper()
	kind, data, err := c.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	return kind, data
}

func (c *gorillaClient) close(t *testing.T, code int, reason string) {
	t.Helper()
	if err := c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason)); err != nil {
		t.Fatal(err)
	}
	if echoed, _ := c.closed(t); echoed != code {
		t.Errorf("code %d was echoed as %d", code, echoed)
	}
	c.Conn.Close()
}

func (c *gorillaClient) closed(t *testing.T) (int, string) {
	t.Helper()
	_, _, err := c.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) {
		t.Fatalf("the connection ended with %v", err)
	}
	return closed.Code, closed.Text
}

func (c *gorillaClient) pongs() int { return c.got }

type coderClient struct {
	*coder.Conn
	ctx     context.Context
	got     int
	reading chan coderMessage // what comes next, if that is being read already
}

type coderMessage struct {
	kind coder.MessageType
	data []byte
	err  error
}

func dialCoder(t *testing.T, s *setup, compress bool) wsClient {
	t.Helper()
	c := &coderClient{ctx: soon(t)}
	mode := coder.CompressionDisabled
	if compress {
		mode = coder.CompressionContextTakeover
	}
	ws, response, err := coder.Dial(c.ctx, s.url("wss"), &coder.DialOptions{
		HTTPClient:           newClient(t, s.ca, stranger).Client,
		CompressionMode:      mode,
		CompressionThreshold: 1,
		OnPongReceived:       func(context.Context, []byte) { c.got++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	checkCompression(t, response, compress)
	c.Conn = ws
	return c
}

func (c *coderClient) send(t *testing.T, kind int, fragments ...[]byte) {
	t.Helper()
	c.read() // a ping waits for its pong, which has to be read
	w, err := c.Writer(c.ctx, coder.MessageType(kind))
	for i, fragment := range fragments {
		if i > 0 && err == nil {
			err = c.Ping(c.ctx)
		}
		if err == nil {
			_, err = w.Write(fragment)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// read begins to read the next message.
func (c *coderClient) read() {
	if c.reading != nil {
		return
	}
	reading := make(chan coderMessage, 1)
	c.reading = reading
	go func() {
		kind, data, err := c.Read(c.ctx)
		reading <- coderMessage{kind, data, err}
	}()
}

// next returns the next message.
func (c *coderClient) next() coderMessage {
	c.read()
	defer func() { c.reading = nil }()
	return <-c.reading
}

func (c *coderClient) receive(t *testing.T) (int, []byte) {
	t.Helper()
	message := c.next()
	if message.err != nil {
		t.Fatal(message.err)
	}
	return int(message.kind), message.data
}

func (c *coderClient) close(t *testing.T, code int, reason string) {
	t.Helper()
	if err := c.Close(coder.StatusCode(code), reason); err != nil {
		t.Fatal(err)
	}
}

func (c *coderClient) closed(t *testing.T) (int, string) {
	t.Helper()
	message := c.next()
	var closed coder.CloseError
	if !errors.As(message.err, &closed) {
		t.Fatalf("the connection ended with %v", message.err)
	}
	return int(closed.Code), closed.Reason
}

func (c *coderClient) pongs() int { return c.got }
