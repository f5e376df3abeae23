package integration_test

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// TestShortBodyOverHTTP3 has clients over HTTP/3 that end their stream, in order, before
// the length they have announced. Such a request is malformed (RFC 9114, section 4.1.2),
// which quic-go leaves to handlers to see: it never looks whole to the relay, gets a 400,
// and is not the relay's fault.
func TestShortBodyOverHTTP3(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL).over(http3x))
	p.settleQUIC(t)
	for _, length := range []int{100, 100_000} {
		for _, fields := range [][]string{nil, {"trailer", "x-foo"}} {
			fields = append([]string{":method", "POST", ":scheme", "https", ":authority", "localhost", ":path", "/websocket/trace",
				"content-length", strconv.Itoa(length)}, fields...)
			if status := postOverHTTP3(t, p, "short", fields...); status != "400" {
				t.Errorf("%q: status %s", fields, status)
			}
			relay.wantNoRequest(t)
		}
	}
	if lines, _ := p.logs.matching(`"relay failed"`, relay.Listener.Addr().String()); len(lines) > 0 {
		t.Errorf("the log has %s", lines)
	}
}

// postOverHTTP3 sends a request frame by frame, whatever it says of itself, and returns
// the status of the response.
func postOverHTTP3(t *testing.T, p *proxy, body string, fields ...string) (status string) {
	t.Helper()
	conn, err := quic.DialAddr(t.Context(), p.addr, http3.ConfigureTLSConfig(authority.ClientConfig("localhost")), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	new(http3.Transport).NewClientConn(conn) // for its SETTINGS
	s, err := conn.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := qpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	const data, headers = 0, 1 // types of frames
	request := append(quicvarint.Append([]byte{headers}, uint64(block.Len())), block.Bytes()...)
	request = append(quicvarint.Append(append(request, data), uint64(len(body))), body...)
	if _, err := s.Write(request); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.SetReadDeadline(time.Now().Add(patience))
	response, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	frames := bytes.NewReader(response[1:])
	size, err := quicvarint.Read(frames)
	if err != nil {
		t.Fatal(err)
	}
	head := response[len(response)-frames.Len():][:size]
	for decode := qpack.NewDecoder().Decode(head); ; {
		field, err := decode()
		if err != nil {
			t.Fatalf("no status in %s: %v", strings.ToValidUTF8(string(head), "?"), err)
		}
		if field.Name == ":status" {
			return field.Value
		}
	}
}
