package watchrtcproxy

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/http1"
)

// A body goes back whole or not at all.
func TestGiveBack(t *testing.T) {
	small := func() clientBody {
		body, err := http1.ReadBody(strings.NewReader("body"), 4)
		if err != nil {
			t.Fatal(err)
		}
		return clientBody{small: body}
	}
	for name, test := range map[string]struct {
		body   clientBody
		unsent bool
		whole  bool
	}{
		"none":              {clientBody{}, true, true},
		"small, not sent":   {small(), true, true},
		"small, sent":       {small(), false, false},
		"not read to end":   {clientBody{broken: true}, true, false},
		"streamed, not yet": {clientBody{stream: &streamedBody{close: func() {}}}, true, true},
		"streamed, begun":   {clientBody{stream: &streamedBody{close: func() {}, begun: true}}, true, false},
		"streamed, sent":    {clientBody{stream: &streamedBody{close: func() {}}}, false, false},
	} {
		r := &http.Request{Body: io.NopCloser(strings.NewReader("body"))}
		test.body.giveBack(r, test.unsent)
		text, err := io.ReadAll(r.Body)
		if whole := string(text) == "body" && err == nil; whole != test.whole || !whole && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}
