package integration_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// literals returns a field section (RFC 9204, section 4.5.6) of short fields.
func literals(fields [][2]string) []byte {
	block := []byte{0, 0}
	for _, f := range fields {
		if n := len(f[0]); n < 7 {
			block = append(block, 0x20|byte(n))
		} else {
			block = append(block, 0x27, byte(n-7))
		}
		block = append(block, f[0]...)
		block = append(append(block, byte(len(f[1]))), f[1]...)
	}
	return block
}

// TestStuckHTTP3Client has a client that grants its stream no more room, and whose
// tunnel is closed. What it has been sent ends between two frames of HTTP/3, or with a
// reset: a frame that is cut by an orderly end is an error of the connection, which
// ends all others on it (RFC 9114, section 7.1).
func TestStuckHTTP3Client(t *testing.T) {
	addr, told, ended := overflowing(t)
	p := start(t, mount("wss://"+addr, "idle_timeout 1s").over(http3x))
	p.settleQUIC(t)
	conn, err := quic.DialAddr(testContext(t), p.addr, authority.ClientConfig("localhost", http3.NextProtoH3),
		&quic.Config{InitialStreamReceiveWindow: 10_000, MaxStreamReceiveWindow: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	control, err := conn.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	control.Write([]byte{0, 4, 0}) // a control stream, SETTINGS
	s, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	block := literals(handshakeFields)
	s.Write(append(quicvarint.Append([]byte{1}, uint64(len(block))), block...))

	await(t, told, "Close frame")
	await(t, ended, "end of the relay's connection")
	got, err := io.ReadAll(s)
	if err != nil {
		t.Logf("the stream ends with %v", err)
		return
	}
	for r := bytes.NewReader(got); r.Len() > 0; {
		kind, _ := quicvarint.Read(r)
		length, err := quicvarint.Read(r)
		if err != nil || uint64(r.Len()) < length {
			t.Fatalf("an orderly end in a frame of type %d: %d of its %d bytes have come", kind, r.Len(), length)
		}
		r.Seek(int64(length), io.SeekCurrent)
	}
}
