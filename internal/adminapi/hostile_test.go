package adminapi

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
)

// respondRaw runs a peer that is no admin API until the test ends. It gives each connection
// text, whatever is asked.
func respondRaw(t *testing.T, text string) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.Read(make([]byte, 4<<10))
				io.WriteString(conn, text)
			}()
		}
	}()
	address := ln.Addr().String()
	client := NewClient("tcp", address, address, 10*time.Second)
	t.Cleanup(client.Close)
	return client
}

// TestHostileErrors: what a peer says in place of a response is short in an error, and
// nothing that a terminal could take for a command.
func TestHostileErrors(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	const refused = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n"
	const failed = "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\n"
	const escapes = "\x1b[2J\x1b]0;title\x07"
	for name, text := range map[string]string{
		"escapes in an error":     failed + `{"error":"\u001b[2J\u009b2J\u202e"}`,
		"escapes in a refusal":    refused + `{"error":"\u001b]0;title\u0007"}`,
		"escapes in no JSON":      failed + escapes,
		"escapes in place of all": escapes + "\r\n\r\n",
		"escapes in a status":     "HTTP/1.1 2" + escapes + " OK\r\n\r\n",
		"escapes in a field":      ok + escapes + "\r\n\r\n",
		"escapes in a length":     ok + "Content-Length: " + escapes + "\r\n\r\n",
		"escapes in a chunk":      ok + "Transfer-Encoding: chunked\r\n\r\n" + escapes + "\r\n",
		"a long error":            failed + `{"error":"` + strings.Repeat("x", 1<<20) + `"}`,
		"a long field":            ok + strings.Repeat("x", 1<<20) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := respondRaw(t, text).Status(context.Background())
			if err == nil {
				t.Fatal("no error")
			}
			said := err.Error()
			if len(said) > 1<<10 {
				t.Errorf("%d bytes, such as %.80q", len(said), said)
			}
			if strings.ContainsFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%.200q", said)
			}
		})
	}
}

// TestHostileLists: lists that would take a hundred times their size in memory are not
// decoded, while the longest page of an admin API is, whatever session IDs it has.
func TestHostileLists(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
	for _, item := range []string{"{}", "null", "1"} {
		body := `{"tunnels":[` + strings.Repeat(item+",", 1<<20) + item + "]}"
		if list, err := respondRaw(t, ok+body).Tunnels(context.Background(), SortBytes, MaxLimit); err == nil || len(list.Tunnels) > 0 {
			t.Errorf("%s: %d tunnels, error %v", item, len(list.Tunnels), err)
		}
	}
	longest := `{"id":1,"upstream":"wss://relay.example","client_ip":"192.0.2.1","opened":"2025-01-01T00:00:00Z","idle_seconds":1,"bytes_to_relay":1,` +
		`"bytes_to_client":1,"frames_to_relay":1,"frames_to_client":1,"protocol":"HTTP/1.1","session_id":"` + strings.Repeat(",", 128) + `"}`
	body := `{"tunnels":[` + strings.Repeat(longest+",", MaxLimit-1) + longest + "]}"
	list, err := respondRaw(t, ok+body).Tunnels(context.Background(), SortBytes, MaxLimit)
	if err != nil || len(list.Tunnels) != MaxLimit {
		t.Errorf("%d tunnels, error %v", len(list.Tunnels), err)
	}
}
