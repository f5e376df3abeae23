package integration_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSinglePageExamples runs each site of examples/spa, with what it names on this
// computer, in every order of its parts that keeps try_files after what has a path.
func TestSinglePageExamples(t *testing.T) {
	for file, parts := range map[string]struct{ free, fixed int }{
		"Caddyfile":       {free: 3},
		"route.Caddyfile": {free: 2, fixed: 2},
	} {
		t.Run(file, func(t *testing.T) {
			before, inOrder, after := exampleParts(t, file, parts.free+parts.fixed)
			for order := range permutations(inOrder[:parts.free]) {
				body := before + strings.Join(append(order, inOrder[parts.free:]...), "\n") + after
				if checkSinglePage(t, body); t.Failed() {
					t.Fatalf("as\n%s", body)
				}
			}
		})
	}
	files, err := filepath.Glob("../examples/spa/*Caddyfile")
	if err != nil || len(files) != 2 {
		t.Errorf("files %v (%v)", files, err)
	}
}

// exampleParts returns the directives from watchrtc_proxy on, of which there are count,
// and what is around them in the site.
func exampleParts(t *testing.T, file string, count int) (before string, parts []string, after string) {
	t.Helper()
	text, err := os.ReadFile("../examples/spa/" + file)
	if err != nil {
		t.Fatal(err)
	}
	_, body, ok := strings.Cut(string(text), "\napp.example.com {\n")
	body, end := strings.CutSuffix(body, "}\n")
	at := strings.Index(body, "watchrtc_proxy /websocket")
	if !ok || !end || at < 0 {
		t.Fatalf("no site in %s", text)
	}
	before, rest := body[:at], body[at:]
	depth, from := 0, 0
	for i, r := range rest {
		switch {
		case r == '{' && rest[i+1] == '\n':
			depth++
		case r == '}' && rest[i-1] == '\t':
			depth--
		}
		if r == '\n' && depth == 0 && strings.TrimSpace(rest[from:i]) != "" && len(parts) < count {
			parts = append(parts, rest[from:i])
			from = i
		}
	}
	if len(parts) != count {
		t.Fatalf("%d parts in %s", len(parts), body)
	}
	return before, parts, rest[from:]
}

// permutations yields each order of lines.
func permutations(lines []string) func(yield func([]string) bool) {
	var permute func(done, rest []string, yield func([]string) bool) bool
	permute = func(done, rest []string, yield func([]string) bool) bool {
		if len(rest) == 0 {
			return yield(done)
		}
		for i := range rest {
			others := slices.Delete(slices.Clone(rest), i, i+1)
			if !permute(append(slices.Clip(done), rest[i]), others, yield) {
				return false
			}
		}
		return true
	}
	return func(yield func([]string) bool) { permute(nil, lines, yield) }
}

// checkSinglePage runs a site that has the application, its API and the proxy.
func checkSinglePage(t *testing.T, body string) {
	t.Helper()
	api := strings.TrimPrefix(application(t), "http://")
	body = strings.NewReplacer("/srv/app", "{site}", "localhost:9000", api, "/websocket production", "/websocket {relay} {tls}").Replace(body)
	p := startFilled(t, body)
	defer p.stop(t)
	if webSocket, trace := p.asSDK(t, "/websocket"); webSocket != http.StatusSwitchingProtocols || trace != http.StatusOK {
		t.Errorf("the WebSocket gets %d and /trace %d", webSocket, trace)
	}
	for path, want := range map[string]string{"/": "the application", "/rooms/1": "the application", "/websockets": "the application", "/api/rooms": "the API"} {
		_, got := ask(t, p.client(t, http1), request(t, "GET", p.url(path), nil))
		wantBody(t, got, want)
	}
	p.wantNoWarning(t)
}
