package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

// Message types, as on the wire.
const (
	textType   = 1
	binaryType = 2
)

// TestConformance has other authors' strict clients and servers exchange all that RFC
// 6455 and RFC 7692 define, through the proxy.
func TestConformance(t *testing.T) {
	for _, pair := range []struct {
		name  string
		dial  func(*testing.T, *setup, bool) wsClient
		serve func(*testing.T, *setup) echoServer
	}{
		{"gorilla client, ws server", dialGorilla, startWS},
		{"coder client, gorilla server", dialCoder, startGorilla},
		{"coder client, ws server", dialCoder, startWS},
	} {
		t.Run(pair.name, func(t *testing.T) {
			s := newSetup(t, relay.Config{}, caddy.Config{})
			server := pair.serve(t, s)
			s.proxy.Load(t, s.site(server.url))
			for _, compress := range []bool{false, true} {
				t.Run(fmt.Sprintf("compress=%v", compress), func(t *testing.T) {
					testMessages(t, pair.dial(t, s, compress))
					testFragments(t, pair.dial(t, s, compress))
				})
			}
			t.Run("close", func(t *testing.T) {
				testCloses(t, server, func(t *testing.T) wsClient { return pair.dial(t, s, false) })
			})
		})
	}
}

// testMessages sends messages around each size at which the form of the length changes.
func testMessages(t *testing.T, c wsClient) {
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20, 5 << 20} {
		data := bytes.Repeat([]byte("wörld€ "), size/10+1)[:size]
		checkEcho(t, c, binaryType, data)
		checkEcho(t, c, textType, bytes.ToValidUTF8(data, nil))
	}
}

func checkEcho(t *testing.T, c wsClient, kind int, fragments ...[]byte) {
	t.Helper()
	c.send(t, kind, fragments...)
	gotKind, got := c.receive(t)
	if want := bytes.Join(fragments, nil); gotKind != kind || !bytes.Equal(got, want) {
		t.Fatalf("type %d, %d bytes: %d bytes of type %d came back", kind, len(want), len(got), gotKind)
	}
}

// testFragments sends messages in fragments, empty ones too, with control frames
// between them.
func testFragments(t *testing.T, c wsClient) {
	pings := 0
	for _, sizes := range [][]int{{1, 1}, {0, 5, 0}, {125, 126, 127}, {70000, 1, 0, 70000}, {1 << 20, 3, 1 << 20}} {
		fragments := make([][]byte, len(sizes))
		for i, size := range sizes {
			fragments[i] = bytes.Repeat([]byte{byte('a' + i)}, size)
		}
		checkEcho(t, c, textType, fragments...)
		checkEcho(t, c, binaryType, fragments...)
		pings += 2 * (len(sizes) - 1)
	}
	if got := c.pongs(); got != pings {
		t.Errorf("%d pongs came, want %d", got, pings)
	}
}

// testCloses closes with each kind of code, from either side.
func testCloses(t *testing.T, server echoServer, dial func(*testing.T) wsClient) {
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		for _, reason := range []string{"", "wörld", strings.Repeat("r", 123)} {
			t.Run(fmt.Sprintf("%d,%d", code, len(reason)), func(t *testing.T) {
				testClose(t, server, dial, code, reason)
			})
		}
	}
}

func testClose(t *testing.T, server echoServer, dial func(*testing.T) wsClient, code int, reason string) {
	c := dial(t)
	// The reason of the client's Close tells this connection's log line.
	own := strings.ToUpper(reason)
	c.close(t, code, own)
	if _, err := server.log.Await(soon(t), fmt.Sprintf("closed %d %s", code, own)); err != nil {
		t.Error(err)
	}

	c = dial(t)
	c.send(t, textType, fmt.Appendf(nil, "close:%d:%s", code, reason))
	if gotCode, gotReason := c.closed(t); gotCode != code || gotReason != reason {
		t.Errorf("the client saw %d %q, want %d %q", gotCode, gotReason, code, reason)
	}
}
