package integration_test

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
	err := filepath.WalkDir("../examples", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, folder := entry.Name(), strings.Split(filepath.ToSlash(file), "/")[2]
		switch {
		case name == "Caddyfile", filepath.Ext(name) == ".Caddyfile":
			configs[folder]++
			t.Run(file, func(t *testing.T) { provisionExample(t, adaptExample(t, file)) })
		case name == "dashboard.json": // Grafana's
		case filepath.Ext(name) == ".json":
			configs[folder]++
			t.Run(file, func(t *testing.T) { provisionExample(t, readExample(t, file)) })
		case filepath.Base(filepath.Dir(file)) == "site", name == "README.md", name == "log-filter.caddy":
		case strings.HasPrefix(name, "Dockerfile"), name == ".dockerignore", name == "compose.yaml", name == "caddy.service":
		case name == "prometheus.yml", name == "rules.yml", name == "rules_test.yml":
		default:
			t.Errorf("%s: is it a configuration?", file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"quickstart", "production", "staging", "spa", "behind-proxy", "json", "docker", "systemd", "monitoring"} {
		if configs[folder] == 0 {
			t.Errorf("../examples/%s has no configuration", folder)
		}
	}
	folders, err := os.ReadDir("../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if folder.IsDir() && configs[folder.Name()] == 0 {
			t.Errorf("../examples/%s has no configuration", folder.Name())
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
	logToSink(&config)
	if err := caddy.Validate(&config); err != nil {
		t.Error(err)
	}
}

// logToSink has the default logger write where tests look, in the format it has.
func logToSink(config *caddy.Config) {
	newLogs()
	if config.Logging == nil {
		config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {}}}
	}
	config.Logging.Logs["default"].WriterRaw = json.RawMessage(`{"output": "watchrtc_integration"}`)
}

// TestExamplesHideKeys has each example's logger write the access of a request, and
// the error of another that some handler fails: Caddy logs their URLs.
func TestExamplesHideKeys(t *testing.T) {
	const query = "?apiKey=secret-key&token=secret-token&room=shown"
	for file, raw := range deployedExamples(t) {
		t.Run(file, func(t *testing.T) {
			var example caddy.Config
			if err := json.Unmarshal(raw, &example); err != nil {
				t.Fatal(err)
			}
			logToSink(&example)
			p := startConfig(t, func(port int) []byte {
				var config caddy.Config
				dead := site{body: "log\nerror /failing 502\nwatchrtc_proxy /websocket wss://127.0.0.1:1"}
				if err := json.Unmarshal(adapt(t, dead.caddyfile(port)), &config); err != nil {
					t.Fatal(err)
				}
				config.Logging = example.Logging
				return marshal(t, config)
			})
			for target, logger := range map[string]string{"/websocket/trace": "http.log.access", "/failing": "http.log.error"} {
				response, err := p.client(t, http1).Get(p.url(target + query))
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				line := p.logs.wait(t, 1, logger, "room=shown", target)[0]
				if strings.Contains(line, "secret") {
					t.Errorf("%s", line)
				}
			}
		})
	}
}

// deployedExamples are the configurations, as JSON, of the examples that are meant
// to be deployed.
func deployedExamples(t *testing.T) map[string][]byte {
	t.Helper()
	examples := make(map[string][]byte)
	for _, pattern := range []string{"../examples/*/*Caddyfile", "../examples/*/*.json"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			switch {
			case strings.Contains(file, "quickstart"), filepath.Base(file) == "dashboard.json":
			case filepath.Ext(file) == ".json":
				examples[file] = readExample(t, file)
			default:
				examples[file] = adaptExample(t, file)
			}
		}
	}
	return examples
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
