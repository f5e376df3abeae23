package watchrtcproxy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

const maxFuzzedConfig = 4 << 10

// FuzzCaddyfile writes anything behind the directive. What is refused is refused with its
// place and in one line; what adapts means the same when its JSON is read and written
// again, and either loads or says in one line why not.
func FuzzCaddyfile(f *testing.F) {
	ctx := fuzzContext(f)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxFuzzedConfig || !isOneDirective(text) {
			return
		}
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(":80 {\n"+directive+" "+text+"\n}"), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			if !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("no place in %q", err)
			}
			wantOneLine(t, text, err)
			return
		}
		raw := handlerIn(t, adapted)
		var h Handler
		if err := caddy.StrictUnmarshalJSON(raw, &h); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		if again := marshal(t, &h); again != string(raw) {
			t.Errorf("%s becomes %s", raw, again)
		}
		if !reachesOut(text) {
			loadFuzzed(t, ctx, raw)
		}
	})
}

// isOneDirective reports whether text does not leave the directive that it is put into,
// nor has Caddy read other files.
func isOneDirective(text string) bool {
	const end = "end"
	tokens, err := caddyfile.Tokenize([]byte(directive+" "+text+"\n"+end), "Caddyfile")
	if err != nil || strings.Contains(text, "{$") || tokens[len(tokens)-1].Text != end {
		return false // or a quote is open
	}
	depth := 0
	for i, token := range tokens[:len(tokens)-1] {
		if depth == 0 && i > 0 && token.Line != tokens[i-1].Line {
			return false
		}
		switch token.Text {
		case "import":
			return false
		case "{":
			depth++
		case "}":
			depth--
		}
		if depth < 0 {
			return false
		}
	}
	return depth == 0
}

// handlerIn returns the one handler in what a Caddyfile became.
func handlerIn(t *testing.T, adapted []byte) json.RawMessage {
	t.Helper()
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct{ Handle []map[string]json.RawMessage }
				}
			}
		}
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatalf("%v in %s", err, adapted)
	}
	handler := config.Apps.HTTP.Servers["srv0"].Routes[0].Handle[0]
	delete(handler, "handler")
	var h Handler
	if err := json.Unmarshal([]byte(marshal(t, handler)), &h); err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(marshal(t, &h))
}

// FuzzConfig loads any JSON as the handler. What loads can be written and loads again as
// the same, with the defaults in it; what does not says in one line why.
func FuzzConfig(f *testing.F) {
	ctx := fuzzContext(f)
	f.Fuzz(func(t *testing.T, raw string) {
		var h Handler
		if len(raw) > maxFuzzedConfig || !json.Valid([]byte(raw)) || strings.TrimSpace(raw) == "null" || reachesOut(raw) || caddy.StrictUnmarshalJSON([]byte(raw), &h) != nil {
			return
		}
		first := loadFuzzed(t, ctx, []byte(raw))
		second := loadFuzzed(t, ctx, []byte(marshal(t, &h)))
		if first == nil || second == nil {
			if first != second {
				t.Errorf("only one of them loads:\n%s\n%s", raw, marshal(t, &h))
			}
			return
		}
		if first.MaxBodySize <= 0 || first.HandshakeTimeout <= 0 || first.MaxTunnels < 0 || *first.IdleTimeout < 0 || *first.DrainWindow < 0 {
			t.Errorf("%s has loaded as %s", raw, marshal(t, first))
		}
		if a, b := marshal(t, first), marshal(t, second); a != b || *first.upstream != *second.upstream {
			t.Errorf("loads as %s %+v, written again as %s %+v", a, first.upstream, b, second.upstream)
		}
		if third := loadFuzzed(t, ctx, []byte(marshal(t, first))); third == nil {
			t.Errorf("what has loaded does not load again: %s", marshal(t, first))
		}
	})
}

// fuzzContext is that of a configuration without anything in it.
func fuzzContext(f *testing.F) caddy.Context {
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true},
		StorageRaw: json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, scratch)),
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {
			BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output": "discard"}`)},
		}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	return ctx
}

// reachesOut reports whether Caddy's own modules may use files or the network for a
// configuration.
func reachesOut(raw string) bool {
	return slices.ContainsFunc([]string{"provider", "automate", "file", `\u`}, func(word string) bool {
		return strings.Contains(strings.ToLower(raw), word)
	})
}

// loadFuzzed provisions a handler and cleans it up. It returns nil where the handler does
// not load.
func loadFuzzed(t *testing.T, parent caddy.Context, raw json.RawMessage) *Handler {
	ctx, cancel := caddy.NewContext(parent)
	defer cancel()
	loaded, err := ctx.LoadModuleByID("http.handlers."+directive, raw)
	if err != nil {
		wantOneLine(t, string(raw), err)
		return nil
	}
	return loaded.(*Handler)
}

// wantOneLine checks that an error about text quotes what it shows of it. Caddy's own,
// such as those about its transport and headers, do not.
func wantOneLine(t *testing.T, text string, err error) {
	t.Helper()
	for _, word := range []string{"transport", "header"} {
		if strings.Contains(text, word) {
			return
		}
	}
	for _, word := range []string{"unrecognized", "syntax error", "heredoc"} {
		if strings.Contains(err.Error(), word) {
			return
		}
	}
	if strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Errorf("not one line: %q", err)
	}
}

func marshal(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatalf("%v of %+v", err, value)
	}
	return string(text)
}
