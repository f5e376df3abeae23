package http1

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// payloads are what the SDK posts.
var payloads = []struct {
	name string
	size int
}{{"event-300B", 300}, {"stats-12KiB", 12 << 10}, {"largest-64KiB", MaxBody}}

// BenchmarkPool compares with http.Transport. The server allocates nothing.
func BenchmarkPool(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, payload := range payloads {
			s := newServer(b, secure, thrifty)
			pool := s.pool()
			transport := &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return s.dial(ctx)
			}}
			b.Cleanup(transport.CloseIdleConnections)
			layer := map[bool]string{false: "tcp", true: "tls"}[secure]
			for _, way := range []struct {
				name string
				http.RoundTripper
			}{{"pool", pool}, {"transport", transport}} {
				b.Run(layer+"/"+payload.name+"/"+way.name, func(b *testing.B) {
					roundTripLoop(b, way, payload.size)
				})
			}
		}
	}
}

func roundTripLoop(b *testing.B, way http.RoundTripper, size int) {
	reader := bytes.NewReader(make([]byte, size))
	req := newRequest(b.Context(), "POST", "")
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(size)
	buffer := make([]byte, 1<<10)
	b.ReportAllocs()
	b.SetBytes(int64(size))
	for b.Loop() {
		reader.Seek(0, io.SeekStart)
		req.Body = io.NopCloser(reader)
		response, err := way.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = response.Body.Read(buffer)
		}
		response.Body.Close()
	}
}

// thrifty responds to whatever comes.
func thrifty(p *peer) {
	buffer := make([]byte, 128<<10)
	response := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}")
	length := []byte("Content-Length: ")
	have, want := 0, 0
	for {
		n, err := p.Read(buffer[have:])
		if err != nil {
			return
		}
		have += n
		if want == 0 {
			end := bytes.Index(buffer[:have], []byte("\r\n\r\n"))
			at := bytes.Index(buffer[:have], length)
			if end < 0 || at < 0 {
				continue
			}
			value, _, _ := strings.Cut(string(buffer[at+len(length):end+2]), "\r\n")
			size, _ := strconv.Atoi(value)
			want = end + 4 + size
		}
		if have >= want {
			have, want = 0, 0
			p.Write(response)
		}
	}
}
