package watchrtcproxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

// TestSlowStreamIsSmall: a client that sends a byte at a time has a small buffer, and one that
// fills it a large one. Either way each byte arrives.
func TestSlowStreamIsSmall(t *testing.T) {
	sent := bytes.Repeat([]byte("some text "), 20_000)
	for name, test := range map[string]struct {
		from func(io.Reader) io.Reader
		want int
	}{
		"slow": {iotest.OneByteReader, firstPiece},
		"fast": {func(r io.Reader) io.Reader { return r }, copyBufferSize},
	} {
		t.Run(name, func(t *testing.T) {
			body := test.from(bytes.NewReader(sent))
			r, _ := http.NewRequestWithContext(t.Context(), "POST", "/", io.NopCloser(body))
			trip := &roundTrip{h: &Handler{MaxBodySize: defaultMaxBodySize}, r: r}
			b := newStreamedBody(trip)
			b.limit = relay.NewLimit(context.Background(), time.Minute)
			defer b.limit.End()
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
			}
			if len(b.buffer) != test.want {
				t.Errorf("a buffer of %d bytes, want %d", len(b.buffer), test.want)
			}
		})
	}
}
