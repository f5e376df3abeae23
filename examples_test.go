package watchrtcproxy

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
)

// TestExamples adapts and provisions every configuration below examples. A file
// there is a configuration or something that is known to go with one.
func TestExamples(t *testing.T) {
	configs := make(map[string]int) // by folder
	err := filepath.WalkDir("examples", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, folder := entry.Name(), strings.Split(filepath.ToSlash(file), "/")[1]
		switch {
		case name == "Caddyfile", filepath.Ext(name) == ".Caddyfile":
			configs[folder]++
			t.Run(file, func(t *testing.T) { provisionExample(t, adaptExample(t, file)) })
		case filepath.Ext(name) == ".json":
			configs[folder]++
			t.Run(file, func(t *testing.T) { provisionExample(t, readExample(t, file)) })
		case filepath.Base(filepath.Dir(file)) == "site", name == "README.md":
		default:
			t.Errorf("%s: is it a configuration?", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"quickstart", "production", "staging", "behind-proxy", "json"} {
		if configs[folder] == 0 {
			t.Errorf("examples/%s has no configuration", folder)
		}
	}
	folders, err := os.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if configs[folder.Name()] == 0 {
			t.Errorf("examples/%s has no configuration", folder.Name())
		}
	}
}

func readExample(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func adaptExample(t *testing.T, file string) []byte {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(readExample(t, file), map[string]any{"filename": file})
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range warnings {
		t.Errorf("%s", warning)
	}
	return adapted
}

func provisionExample(t *testing.T, raw []byte) {
	t.Helper()
	if !strings.Contains(string(raw), `"watchrtc_proxy"`) {
		t.Error("it does not use watchrtc_proxy")
	}
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(raw), &config); err != nil {
		t.Fatal(err)
	}
	if config.StorageRaw == nil { // or authorities end up in the home directory
		config.StorageRaw = json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, scratch))
	}
	if config.Logging == nil {
		newLogSink()
		config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {
			BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "watchrtc_test"}`)},
		}}}
	}
	if err := caddy.Validate(&config); err != nil {
		t.Error(err)
	}
}
