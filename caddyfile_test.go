package watchrtcproxy

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "write what Caddyfiles adapt to into testdata/adapt, and docs/check.md; to be read before it is committed")

const fixtureSeparator = "----------\n"

// TestAdapt adapts the Caddyfile in each fixture and compares the outcome with
// what follows it: JSON, or for the fixtures named error_* the whole error.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d fixtures (%v)", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(strings.ReplaceAll(string(content), "\r\n", "\n"), fixtureSeparator)
			if !ok {
				t.Fatalf("no line of dashes")
			}
			got, failed := adaptFixture(t, input)
			if failed != strings.HasPrefix(name, "error_") {
				t.Fatalf("only fixtures named error_* should be refused; got:\n%s", got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(input+fixtureSeparator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func adaptFixture(t *testing.T, input string) (outcome string, failed bool) {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error() + "\n", true
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return indented.String() + "\n", false
}

// byCaddy are the mistakes that Caddy itself words.
var byCaddy = map[string]bool{
	"error_matcher_unknown.caddyfiletest":      true,
	"error_transport_bad_option.caddyfiletest": true,
}

// TestAdaptErrors holds every mistake to what makes an error useful: where it is,
// which word is bad, and what is accepted instead.
func TestAdaptErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/error_*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d fixtures (%v)", len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, message, _ := strings.Cut(string(content), fixtureSeparator)
		if !strings.Contains(message, "Caddyfile:") {
			t.Errorf("%s: the error does not say where it is: %s", file, message)
		}
		if byCaddy[filepath.Base(file)] {
			continue
		}
		if !containsAny(message, "want", "accepted", "the options are", "takes no argument", "give it once", "one upstream is supported") {
			t.Errorf("%s: the error does not say what is accepted: %s", file, message)
		}
	}
}

func containsAny(s string, substrings ...string) bool {
	for _, sub := range substrings {
		if strings.Contains(s, sub) {
			return true
		}
	}
	return false
}
