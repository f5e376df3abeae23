package devrelay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay/relaytest"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// newClient trusts the relay and leaves no connection behind.
func newClient(t *testing.T, relay *relaytest.Server) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: relay.Roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func dial(t *testing.T, relay *relaytest.Server, target string, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ws, resp, err := websocket.Dial(testContext(t), relay.WebSocketURL()+target, &websocket.DialOptions{
		HTTPClient:      newClient(t, relay),
		HTTPHeader:      header,
		Subprotocols:    []string{"2.0"},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	if err == nil {
		t.Cleanup(func() { _ = ws.CloseNow() })
	}
	return ws, resp, err
}

func mustDial(t *testing.T, relay *relaytest.Server, target string, header http.Header) *websocket.Conn {
	t.Helper()
	ws, _, err := dial(t, relay, target, header)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

func readJSON(t *testing.T, ws *websocket.Conn) map[string]any {
	t.Helper()
	_, data, err := ws.Read(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	var message map[string]any
	if err := json.Unmarshal(data, &message); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return message
}

func send(t *testing.T, ws *websocket.Conn, text string) {
	t.Helper()
	if err := ws.Write(testContext(t), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func waitConn(t *testing.T, relay *relaytest.Server, n int64) *devrelay.Conn {
	t.Helper()
	conn, err := relay.WaitConn(testContext(t), n)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func waitMessage(t *testing.T, conn *devrelay.Conn, n int64) devrelay.Message {
	t.Helper()
	message, err := conn.WaitMessage(testContext(t), n)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func waitDone(t *testing.T, conn *devrelay.Conn) {
	t.Helper()
	select {
	case <-conn.Done():
	case <-testContext(t).Done():
		t.Fatal("connection still open")
	}
}

func TestWebSocket(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	ws := mustDial(t, relay, "/?apiKey=secretsecret&sessionId=s1", http.Header{"X-Forwarded-For": {"192.0.2.7"}})

	if greeting := readJSON(t, ws); greeting["connectionId"] == "" || greeting["interval"] != 8000.0 {
		t.Errorf("greeting = %v", greeting)
	}
	if ws.Subprotocol() != "2.0" {
		t.Errorf("subprotocol = %q", ws.Subprotocol())
	}

	text := strings.Repeat("compressible ", 1000)
	send(t, ws, text)
	conn := waitConn(t, relay, 1)
	if message := waitMessage(t, conn, 1); string(message.Data) != text || message.Size != int64(len(text)) {
		t.Errorf("received %d bytes of %d", len(message.Data), message.Size)
	}
	if got := conn.Request; got.URI != "/?apiKey=secretsecret&sessionId=s1" || got.Header.Get("X-Forwarded-For") != "192.0.2.7" {
		t.Errorf("handshake = %s %v", got.URI, got.Header)
	}

	if err := conn.Send(testContext(t), websocket.MessageText, []byte(`{"hello":1}`)); err != nil {
		t.Error(err)
	}
	if message := readJSON(t, ws); message["hello"] != 1.0 {
		t.Errorf("received %v", message)
	}

	if err := ws.Close(4001, "bye"); err != nil {
		t.Error(err)
	}
	waitDone(t, conn)
	if code, reason := conn.CloseCode(); code != 4001 || reason != "bye" {
		t.Errorf("closed with %d %q", code, reason)
	}
	if got := conn.Stats(); got.MessagesIn != 1 || got.BytesIn != int64(len(text)) || got.MessagesOut != 2 {
		t.Errorf("stats = %+v", got)
	}
}

func TestWebSocketWithoutKey(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	ws := mustDial(t, relay, "/?sessionId=s1", nil)
	if message := readJSON(t, ws); message["error"] == nil {
		t.Errorf("received %v", message)
	}
	if _, _, err := ws.Read(testContext(t)); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("ended with %v", err)
	}
	waitDone(t, waitConn(t, relay, 1))
}

func TestWebSocketRefused(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{MaxConnections: 1})
	mustDial(t, relay, "/?token=k", nil)
	for target, want := range map[string]int{"/websocket?token=k": 404, "/?token=k": 503} {
		_, resp, err := dial(t, relay, target, nil)
		if err == nil || resp == nil || resp.StatusCode != want {
			t.Errorf("%s: %v, %v; want %d", target, resp, err, want)
		}
	}
}

func TestAbnormalEnds(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{MaxMessageSize: 10})

	mustDial(t, relay, "/?token=k", nil).CloseNow()
	gone := waitConn(t, relay, 1)
	waitDone(t, gone)
	if code, _ := gone.CloseCode(); code != 1006 {
		t.Errorf("no Close frame: code %d", code)
	}

	ws := mustDial(t, relay, "/?token=k", nil)
	readJSON(t, ws)
	send(t, ws, "more than ten bytes")
	if _, _, err := ws.Read(testContext(t)); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("too big: %v", err)
	}

	ws = mustDial(t, relay, "/?token=k", nil)
	readJSON(t, ws)
	waitConn(t, relay, 3).Abort()
	if _, _, err := ws.Read(testContext(t)); err == nil || websocket.CloseStatus(err) != -1 {
		t.Errorf("aborted: %v", err)
	}
}

func TestLargeMessage(t *testing.T) {
	const size = 4 << 20
	relay := relaytest.Start(t, devrelay.Config{MaxMessageSize: size, KeepBytes: size})
	ws := mustDial(t, relay, "/?token=k", nil)
	want := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if err := ws.Write(testContext(t), websocket.MessageBinary, want); err != nil {
		t.Fatal(err)
	}
	if got := waitMessage(t, waitConn(t, relay, 1), 1); !bytes.Equal(got.Data, want) {
		t.Errorf("received %d bytes, not what was sent", got.Size)
	}
}

func TestBounds(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{MaxConnections: 2, Keep: 3, KeepBytes: 4})
	for n := range int64(5) {
		ws := mustDial(t, relay, "/?token=k", nil)
		send(t, ws, "0123456789")
		conn := waitConn(t, relay, n+1)
		if got := waitMessage(t, conn, 1); string(got.Data) != "0123" || got.Size != 10 {
			t.Errorf("kept %q of %d", got.Data, got.Size)
		}
		ws.CloseNow()
		waitDone(t, conn)
	}
	if c, m, r := len(relay.Conns()), len(relay.Messages()), len(relay.Requests()); c != 2 || m != 3 || r != 3 {
		t.Errorf("remembered %d connections, %d messages, %d requests; want 2, 3, 3", c, m, r)
	}
}

func TestCloseSaysGoingAway(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	ws := mustDial(t, relay, "/?token=k", nil)
	readJSON(t, ws)
	closed := make(chan error, 1)
	go func() { closed <- relay.Close() }()
	if _, _, err := ws.Read(testContext(t)); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("ended with %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, resp, err := dial(t, relay, "/?token=k", nil); err == nil || resp == nil || resp.StatusCode != 503 {
		t.Errorf("dial after Close: %v, %v", resp, err)
	}
}

func TestCloseDoesNotWaitForSilentClients(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	mustDial(t, relay, "/?token=k", nil) // nothing reads it, so nothing answers a Close frame
	waitConn(t, relay, 1)
	started := time.Now()
	if err := relay.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestHTTP(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{MaxMessageSize: 100})
	client := newClient(t, relay)
	tests := []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"POST", "/trace", `{"data":[]}`, 200, `{"ok":true}`},
		{"POST", "/error", `{"data":[]}`, 200, `{"ok":true}`},
		{"OPTIONS", "/trace", "", 204, ""},
		{"GET", "/get-qualityrtc-config?apiKey=k", "", 200, `{"jsonConfig":{"config":{}},"url":"https://quality.invalid"}`},
		{"GET", "/get-qualityrtc-config", "", 401, `{"error":"apiKey or token is missing"}`},
		{"POST", "//trace", "{}", 404, `{"error":"no such endpoint"}`},
		{"POST", "/trace", strings.Repeat("x", 101), 413, `{"error":"body too large"}`},
	}
	for _, tt := range tests {
		t.Run(tt.method+tt.target, func(t *testing.T) {
			req, err := http.NewRequestWithContext(testContext(t), tt.method, relay.URL+tt.target, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Origin", "https://app.example")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status || strings.TrimSpace(string(body)) != tt.want {
				t.Errorf("response: %d %s", resp.StatusCode, body)
			}
			if resp.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Error("no CORS")
			}
			seen, err := relay.WaitRequest(testContext(t), func(r devrelay.Request) bool {
				return r.Method == tt.method && r.URI == tt.target
			})
			if err != nil || tt.status != 413 && string(seen.Body) != tt.body {
				t.Errorf("remembered %q, %v", seen.Body, err)
			}
		})
	}
}

func TestBodyEndingEarly(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	body, writer := io.Pipe()
	go func() {
		_, _ = writer.Write([]byte("half"))
		_ = writer.CloseWithError(errors.New("the client stops here"))
	}()
	req, err := http.NewRequestWithContext(testContext(t), http.MethodPost, relay.URL+"/trace", body)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := newClient(t, relay).Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("response %s", resp.Status)
	}
	seen, err := relay.WaitRequest(testContext(t), func(r devrelay.Request) bool { return r.URI == "/trace" })
	if err != nil || seen.BodyErr == nil {
		t.Errorf("remembered %+v, %v", seen, err)
	}
}

func TestHeaderTooLarge(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	_, resp, err := dial(t, relay, "/?token=k", http.Header{"X-Large": {strings.Repeat("x", 70<<10)}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("response %v, %v", resp, err)
	}
	if len(relay.Requests()) != 0 {
		t.Error("remembered")
	}
}
