package check

import (
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// forever writes text again and again until the client has had enough.
func forever(c *wstest.Conn, text string) {
	block := strings.Repeat(text, 4<<10/len(text))
	for c.WriteText(block) == nil {
	}
}

// afterHandshake accepts a handshake and leaves the rest to then.
func afterHandshake(then func(c *wstest.Conn)) func(*wstest.Conn) {
	return func(c *wstest.Conn) {
		if _, err := c.AcceptHandshake("Sec-WebSocket-Protocol: 2.0"); err == nil {
			then(c)
		}
	}
}

// responding reads a request's head and writes text.
func responding(text string) func(*wstest.Conn) {
	return func(c *wstest.Conn) {
		if _, err := c.ReadRequest(); err == nil {
			c.WriteText(text)
		}
	}
}

// sending accepts a handshake and writes frames.
func sending(frames ...wstest.Frame) func(*wstest.Conn) {
	return afterHandshake(func(c *wstest.Conn) {
		c.Send(frames...)
		c.ReadToEnd()
	})
}

// TestHostileServers: each step ends, in time and without much read, and says what was
// wrong.
func TestHostileServers(t *testing.T) {
	large := strings.Repeat("x", maxGreeting+1)
	pings := make([]wstest.Frame, maxFrames+1)
	for i := range pings {
		pings[i] = wstest.Frame{Fin: true, Opcode: wstest.Ping}
	}
	for name, test := range map[string]struct {
		serve  func(*wstest.Conn)
		edit   func(*Options)
		step   string
		detail string
	}{
		"nothing at all":      {func(c *wstest.Conn) { c.ReadRequest() }, silent, StepWebSocket, "nothing within"},
		"the end":             {func(*wstest.Conn) {}, nil, StepWebSocket, "the connection was ended"},
		"a reset":             {func(c *wstest.Conn) { c.ReadRequest(); c.Reset() }, nil, StepWebSocket, "the connection was ended"},
		"garbage":             {responding("\xff\xfe\xfd\xfc garbage garbage"), nil, StepWebSocket, "does not speak HTTP"},
		"a few bytes":         {responding("HTTP"), nil, StepWebSocket, "the connection was ended"},
		"SSH":                 {responding("SSH-2.0-server\r\n"), nil, StepWebSocket, "does not speak HTTP"},
		"HTTP/2":              {responding("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), nil, StepWebSocket, "HTTP/2 only"},
		"a bad status line":   {responding("HTTP/1.1 one hundred\r\n\r\n"), nil, StepWebSocket, "does not speak HTTP"},
		"a broken head":       {responding("HTTP/1.1 200 OK\r\nServer: "), nil, StepWebSocket, "the connection was ended"},
		"an endless line":     {func(c *wstest.Conn) { c.ReadRequest(); c.WriteText("HTTP/1.1 200 "); forever(c, "x") }, nil, StepWebSocket, "endless"},
		"endless fields":      {func(c *wstest.Conn) { c.ReadRequest(); c.WriteText("HTTP/1.1 200 OK\r\n"); forever(c, "X: y\r\n") }, nil, StepWebSocket, "endless"},
		"endless 1xx":         {func(c *wstest.Conn) { c.ReadRequest(); forever(c, "HTTP/1.1 103 Early Hints\r\n\r\n") }, nil, StepWebSocket, "does not speak HTTP"},
		"a slow head":         {func(c *wstest.Conn) { c.ReadRequest(); c.WriteText("HTTP/1.1 200 OK\r\nX: ") }, silent, StepWebSocket, "nothing within"},
		"another key's 101":   {responding("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"), nil, StepWebSocket, "Accept"},
		"another protocol":    {responding("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), nil, StepWebSocket, "does not switch"},
		"no subprotocol":      {func(c *wstest.Conn) { c.AcceptHandshake() }, nil, StepWebSocket, "subprotocol is missing"},
		"an extension":        {func(c *wstest.Conn) { c.AcceptHandshake("Sec-WebSocket-Extensions: permessage-deflate") }, nil, StepWebSocket, "extension"},
		"no greeting":         {afterHandshake(func(*wstest.Conn) {}), silent, StepGreeting, "the relay says nothing"},
		"an end, no greeting": {afterHandshake(func(*wstest.Conn) {}), nil, StepGreeting, "breaks off"},
		"a Close frame":       {sending(wstest.CloseFrame(1013, "\x1b[31m"+testKey)), nil, StepGreeting, `closed at once: a Close frame, code 1013 "`},
		"an empty Close":      {sending(wstest.CloseFrame(0)), nil, StepGreeting, "code 1005"},
		"a huge greeting":     {sending(wstest.Message(large)), nil, StepGreeting, "more than 65536 bytes"},
		"a huge length": {afterHandshake(func(c *wstest.Conn) { c.WriteText("\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"); c.ReadToEnd() }),
			nil, StepGreeting, "more than 65536 bytes"},
		"huge in pieces": {sending(wstest.Fragments(wstest.Text, []byte(large), 20)...), nil, StepGreeting, "more than 65536 bytes"},
		"endless pieces": {afterHandshake(func(c *wstest.Conn) {
			c.Send(wstest.Frame{Opcode: wstest.Text})
			forever(c, "\x00\x00")
		}), nil, StepGreeting, "more than 32"},
		"pings alone":       {sending(pings...), nil, StepGreeting, "more than 32"},
		"a long ping":       {sending(wstest.Frame{Fin: true, Opcode: wstest.Ping, Payload: make([]byte, 126)}), nil, StepGreeting, "control frame"},
		"a masked frame":    {afterHandshake(func(c *wstest.Conn) { c.WriteText("\x81\x81\x00\x00\x00\x00x"); c.ReadToEnd() }), nil, StepGreeting, "masked"},
		"reserved bits":     {sending(wstest.Frame{Fin: true, Opcode: wstest.Text, RSV: 0x40}), nil, StepGreeting, "reserved"},
		"a binary greeting": {sending(wstest.Frame{Fin: true, Opcode: wstest.Binary}), nil, StepGreeting, "not a text message"},
		"no UTF-8":          {sending(wstest.Message("\xff")), nil, StepGreeting, "UTF-8"},
		"no JSON":           {sending(wstest.Message("hello")), nil, StepGreeting, "not a relay's"},
		"another JSON":      {sending(wstest.Message(`{"hello":1}`)), nil, StepGreeting, "no connectionId"},
		"JSON of no object": {sending(wstest.Message(`[]`)), nil, StepGreeting, "not a relay's"},
		"an error with the key": {sending(wstest.Message(`{"error":"VERY public/key?apiKey=` + "very%20public%2Fkey" + ` \u001b[2J"}`)),
			nil, StepGreeting, `"REDACTED… `},
		"an error of another kind": {sending(wstest.Message(`{"error":{}}`)), nil, StepGreeting, "without a text"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := checkPlain(t, test.serve, test.edit)
			wantStep(t, report, test.step, Failed, test.detail)
			if report.OK() {
				t.Error("all is well")
			}
		})
	}
}

// TestHostileBodies: what comes by HTTPS is bounded as well.
func TestHostileBodies(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\n" + strings.Join(ofRelay, "\r\n") + "\r\n"
	for name, test := range map[string]struct {
		body   func(*wstest.Conn)
		detail string
	}{
		"endless":    {func(c *wstest.Conn) { c.WriteText(head + "\r\n{"); forever(c, " ") }, "no JSON object"},
		"broken":     {func(c *wstest.Conn) { c.WriteText(head + "Content-Length: 9\r\n\r\n{") }, "no JSON object"},
		"bad chunks": {func(c *wstest.Conn) { c.WriteText(head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}") }, "no JSON object"},
		"a list":     {func(c *wstest.Conn) { c.WriteText(head + "\r\n[]") }, "no JSON object"},
		"no page":    {func(c *wstest.Conn) { c.WriteText("HTTP/1.1 404 Not Found\r\n\r\n") }, "does not reach the proxy"},
		"an error": {func(c *wstest.Conn) {
			c.WriteText(strings.Replace(head, "200", "401", 1) + "\r\n" + `{"error":"no \u001b` + testKey + `"}`)
		}, `"no` + " \uFFFD" + `REDACTED"`},
		"two origins": {func(c *wstest.Conn) { c.WriteText(head + "Access-Control-Allow-Origin: *\r\n\r\n{}") }, "comes twice"},
		"other origin": {func(c *wstest.Conn) {
			c.WriteText("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: https://x\r\n\r\n{}")
		}, "another origin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := checkPlain(t, func(c *wstest.Conn) {
				request, err := c.ReadRequest()
				switch {
				case err != nil:
				case request.Header.Get("Upgrade") != "":
					accept(c, request.Header.Get("Sec-Websocket-Key"), goodGreeting)
				default:
					test.body(c)
				}
			}, nil)
			wantStep(t, report, StepGreeting, OK, "the relay greets")
			wantStep(t, report, StepConfig, Failed, test.detail)
		})
	}
}
