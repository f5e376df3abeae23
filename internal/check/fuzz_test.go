package check

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// FuzzGreeting: whatever frames a server sends, a message or an error comes of it, and
// the message is one that the frames held.
func FuzzGreeting(f *testing.F) {
	f.Add(wstest.Encode(false, wstest.Message(goodGreeting)))
	f.Add(wstest.Encode(false, wstest.Message(`{"error":"no"}`)))
	f.Add(wstest.Encode(false, wstest.Fragments(wstest.Text, []byte(goodGreeting), 3)...))
	f.Add(wstest.Encode(false, wstest.CloseFrame(1008, "no")))
	f.Add(wstest.Encode(true, wstest.Message("masked")))
	f.Add([]byte("\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		message, err := readMessage(bufio.NewReader(bytes.NewReader(wire)))
		r := &run{Options: Options{APIKey: testKey}.withDefaults()}
		if err != nil {
			wantPrintable(t, r.ungreeted(err))
			return
		}
		if len(message) > maxGreeting || len(message) > len(wire) {
			t.Errorf("%d bytes of message out of %d", len(message), len(wire))
		}
		if !strings.Contains(string(wire), string(message[:min(len(message), 1)])) {
			t.Errorf("made up %q", message)
		}
		wantPrintable(t, r.greeted(message))
	})
}

// FuzzResponse: whatever a server responds, a response or a known error comes of it.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: https://other.example/?apiKey=k\r\nDate: Sat, 28 Nov 2026 00:00:00 GMT\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.Add([]byte("HTTP/1.0 502 \x1b[31m\r\n\r\n"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := &run{Options: optionsForFuzz().withDefaults()}
		request := &http.Request{Method: http.MethodGet, URL: r.endpoint("")}
		response, err := readResponse(bufio.NewReader(bytes.NewReader(wire)), request)
		if err != nil {
			if !errors.Is(err, errNotHTTP) && !errors.Is(err, errHTTP2) && !isBroken(err) {
				t.Errorf("%v", err)
			}
			wantPrintable(t, r.unanswered("it", err))
			return
		}
		x := &exchange{Response: response, now: r.Now()}
		x.Body = io.NopCloser(io.LimitReader(x.Body, maxResponse))
		x.skew()
		if bad, ok := r.refused(x); ok {
			wantPrintable(t, bad)
		}
		wantPrintable(t, r.hidden(x))
	})
}

func optionsForFuzz() Options {
	u, err := ParseURL("wss://proxy.example.com/websocket")
	if err != nil {
		panic(err)
	}
	return Options{URL: u, APIKey: testKey, Origin: testOrigin}
}

func wantPrintable(t *testing.T, result result) {
	t.Helper()
	text := result.mistake + result.seen + result.hint
	if i := strings.IndexFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }); i >= 0 || strings.Contains(text, testKey) || len(text) > 2000 {
		t.Errorf("%q", text)
	}
}
