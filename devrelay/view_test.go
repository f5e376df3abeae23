package devrelay_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay/relaytest"
)

// A message as the SDK compresses it: [["getStats",null,{"bytesSent":1042}]]
const compressed = "NrBEHMFMBcGVoIbQM6gDQDsCuAbHaBvUAIwE9pJlZINpQAuARgAYAWAJgF8BdboA"

func get(t *testing.T, relay *relaytest.Server, path string) (*http.Response, string) {
	t.Helper()
	return do(t, relay, http.MethodGet, path, "")
}

func do(t *testing.T, relay *relaytest.Server, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), method, relay.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forwarded-For", "192.0.2.7, 10.0.0.1")
	resp, err := newClient(t, relay).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	response, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(response)
}

func TestPage(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	for path, kind := range map[string]string{
		"/":                 "text/html; charset=utf-8",
		"/_relay/page.css":  "text/css; charset=utf-8",
		"/_relay/page.js":   "text/javascript; charset=utf-8",
		"/_relay/state":     "application/json",
		"/?apiKey=anything": "text/html; charset=utf-8",
	} {
		resp, _ := get(t, relay, path)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != kind {
			t.Errorf("%s: %s, %s", path, resp.Status, resp.Header.Get("Content-Type"))
		}
		if !strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: no policy", path)
		}
		if resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: other sites may read it", path)
		}
	}
	if resp, _ := get(t, relay, "/_relay/nothing"); resp.StatusCode != 404 {
		t.Errorf("unknown asset: %s", resp.Status)
	}
	if len(relay.Requests()) != 0 {
		t.Error("the page's own requests are remembered")
	}
}

type state struct {
	Opened, Open int
	Connections  []struct {
		ID            int
		Open          bool
		Client, URI   string
		Identity      devrelay.Identity
		Stats         devrelay.Stats
		CloseCode     int
		CloseReason   string
		Subprotocol   string
		RemoteAddress string `json:"remoteAddr"`
	}
	Messages []struct {
		Connection, Seq, Size int
		Text                  string
		Compressed            bool
	}
	Requests []struct {
		Method, URI, Client, Text string
		Size                      int
		Identity                  devrelay.Identity
	}
}

func getState(t *testing.T, relay *relaytest.Server) (parsed state, raw string) {
	t.Helper()
	_, raw = get(t, relay, "/_relay/state")
	if err := json.Unmarshal([]byte(raw), &parsed); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return parsed, raw
}

func TestEmptyStateHasLists(t *testing.T) {
	_, raw := getState(t, relaytest.Start(t, devrelay.Config{}))
	if want := `{"opened":0,"open":0,"connections":[],"messages":[],"requests":[]}`; strings.TrimSpace(raw) != want {
		t.Errorf("got %s", raw)
	}
}

func TestStateOfConnection(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	ws := mustDial(t, relay, "/?apiKey=keykeykey&sessionId=s1&newConnection=true",
		http.Header{"X-Forwarded-For": {"192.0.2.7", "10.0.0.1"}})
	send(t, ws, `["watchrtc",null,{"rtcApiKey":"keykeykey","rtcRoomId":"lobby \"1\"","rtcPeerId":"p"}]`)
	send(t, ws, compressed)
	conn := waitConn(t, relay, 1)
	waitMessage(t, conn, 2)

	got, _ := getState(t, relay)
	if got.Opened != 1 || got.Open != 1 || len(got.Connections) != 1 || len(got.Messages) != 2 || len(got.Requests) != 0 {
		t.Fatalf("state = %+v", got)
	}
	c := got.Connections[0]
	if !c.Open || c.Client != "192.0.2.7, 10.0.0.1" || c.URI != "/?apiKey=…&sessionId=s1&newConnection=true" || c.Subprotocol != "2.0" {
		t.Errorf("connection = %+v", c)
	}
	if want := (devrelay.Identity{Session: "s1", Room: `lobby "1"`, Peer: "p"}); c.Identity != want {
		t.Errorf("identity = %+v", c.Identity)
	}
	if m := got.Messages[0]; !m.Compressed || m.Seq != 2 || m.Size != len(compressed) || m.Text != `[["getStats",null,{"bytesSent":1042}]]` {
		t.Errorf("compressed message = %+v", m)
	}
	if m := got.Messages[1]; m.Compressed || m.Text != `["watchrtc",null,{"rtcApiKey":"…","rtcRoomId":"lobby \"1\"","rtcPeerId":"p"}]` {
		t.Errorf("plain message = %+v", m)
	}

	if err := ws.Close(4000, "bye"); err == nil {
		waitDone(t, conn)
	}
	got, _ = getState(t, relay)
	if c := got.Connections[0]; c.Open || c.CloseCode != 4000 || c.CloseReason != "bye" {
		t.Errorf("after close: %+v", c)
	}
}

func TestStateOfRequest(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{})
	do(t, relay, http.MethodPost, "/trace", `{"sessionId":"s","projectId":"keykeykey","rtcRoomId":"r","rtcPeerId":"p","data":[]}`)
	got, _ := getState(t, relay)
	if len(got.Requests) != 1 {
		t.Fatalf("state = %+v", got)
	}
	r := got.Requests[0]
	if r.Client != "192.0.2.7, 10.0.0.1" || r.Identity != (devrelay.Identity{Session: "s", Room: "r", Peer: "p"}) {
		t.Errorf("request = %+v", r)
	}
	if r.Text != `{"sessionId":"s","projectId":"…","rtcRoomId":"r","rtcPeerId":"p","data":[]}` {
		t.Errorf("text = %s", r.Text)
	}
}

// No secret is shown, wherever it was sent.
func TestStateHasNoSecrets(t *testing.T) {
	relay := relaytest.Start(t, devrelay.Config{KeepBytes: 100})
	const secret = "S3cret"
	ws := mustDial(t, relay, "/?APIKEY="+secret+"&token=long"+secret+"&x="+secret, nil)
	messages := []string{
		`{"rtcToken" : "` + secret + `"}`,
		`{"apiKey":"with \"quotes\" ` + secret + `"}`,
		`plain long` + secret,
		`{"rtcApiKey":"` + secret + strings.Repeat("x", 200) + `"}`, // cut short
	}
	for _, text := range messages {
		send(t, ws, text)
	}
	waitMessage(t, waitConn(t, relay, 1), int64(len(messages)))
	do(t, relay, http.MethodPost, "/error?token="+secret, `{"projectId":"`+secret+`"}`)
	do(t, relay, http.MethodGet, "/get-qualityrtc-config?apiKey="+secret, "")

	if _, raw := getState(t, relay); strings.Contains(raw, secret) {
		t.Errorf("secret in %s", raw)
	}
}
