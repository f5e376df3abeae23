package watchrtcproxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// command returns a command as Caddy's framework makes it, which writes to out and
// errors.
func command(t *testing.T, name string, out, errors *bytes.Buffer) *cobra.Command {
	t.Helper()
	registered, ok := caddycmd.Commands()[name]
	if !ok {
		t.Fatalf("no command %s", name)
	}
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	cmd := &cobra.Command{Use: registered.Name + " " + registered.Usage, Short: registered.Short, Long: registered.Long}
	registered.CobraFunc(cmd)
	root.AddCommand(cmd)
	root.SetOut(out)
	root.SetErr(errors)
	return root
}

// TestCheckUsage: wrong usage is said in plain words, without what may be a key, and
// is not the status of a failed check.
func TestCheckUsage(t *testing.T) {
	const url = "wss://proxy.example.com/websocket"
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "want one URL"},
		{[]string{url, "secret"}, "want one URL"},
		{[]string{url + "?apiKey=secret"}, "--api-key"},
		{[]string{"https://proxy.example.com"}, `did you mean "wss://proxy.example.com"?`},
		{[]string{"--unknown=secret", url}, "unknown flag: --unknown"},
		{[]string{"-apikey=secret", url}, "unknown shorthand flag"},
		{[]string{"--api-key"}, "flag needs an argument"},
		{[]string{"--api-key", "secret", "--token", "secret", url}, "want one of them"},
		{[]string{"--origin", "app.example.com", url}, `origin "app.example.com": want`},
		{[]string{"--every", "0.5s", url}, `--every "0.5s": want a duration`},
		{[]string{"--every", "often", url}, `--every "often": want a duration`},
		{[]string{"--count", "0", url}, "--count 0: want a number"},
		{[]string{"--count", "many", url}, `invalid argument "many"`},
	} {
		var out, errs bytes.Buffer
		root := command(t, "watchrtc-check", &out, &errs)
		root.SetArgs(append([]string{"watchrtc-check"}, test.args...))
		err := root.Execute()
		if err == nil || err.Error() != "exiting with status 2" {
			t.Errorf("%q: %v", test.args, err)
		}
		if text := errs.String(); !strings.HasPrefix(text, "Error: ") || !strings.Contains(text, test.want) || strings.Contains(text, "secret") || strings.Count(text, "\n") != 2 {
			t.Errorf("%q: %s", test.args, text)
		}
		if out.Len() > 0 {
			t.Errorf("%q writes %s", test.args, out.String())
		}
	}
}

// TestCheckFails: the error that gives the exit status 1 writes nothing by itself.
func TestCheckFails(t *testing.T) {
	for _, json := range []bool{false, true} {
		var out, errs bytes.Buffer
		root := command(t, "watchrtc-check", &out, &errs)
		root.SetArgs([]string{"watchrtc-check", fmt.Sprintf("--json=%t", json), "ws://127.0.0.1:1"})
		if err := root.Execute(); err != errFailed {
			t.Errorf("%v", err)
		}
		if errs.Len() > 0 || strings.Contains(out.String(), "\x1b") || strings.HasPrefix(out.String(), "{") != json {
			t.Errorf("it writes %q and %q", out.String(), errs.String())
		}
	}
}

// TestCheckFlags: flags arrive.
func TestCheckFlags(t *testing.T) {
	var out, errs bytes.Buffer
	root := command(t, "watchrtc-check", &out, &errs)
	cmd, args, err := root.Find([]string{"watchrtc-check", "--token", "t", "-o", "https://a.example", "--every", "1d", "--insecure", "--json", "wss://h.example"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	c, err := parseCheck(cmd.Flags(), cmd.Flags().Args())
	if err != nil {
		t.Fatal(err)
	}
	o := c.options
	got := fmt.Sprintf("%s %q %q %s %t %t %d %s", o.URL, o.APIKey, o.Token, o.Origin, o.Insecure, c.json, c.count, c.every)
	if want := `wss://h.example "" "t" https://a.example true true 0 24h0m0s`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestProxyCommandMistakes(t *testing.T) {
	for _, test := range []struct {
		options proxyOptions
		want    string
	}{
		{proxyOptions{from: "localhost", path: "websocket"}, `--path "websocket": want`},
		{proxyOptions{from: "localhost", path: "/a?b"}, `--path "/a?b": want`},
		{proxyOptions{from: "localhost/x", path: "/"}, `--from "localhost/x": it must have no path`},
		{proxyOptions{from: "ftp://localhost", path: "/"}, `--from "ftp://localhost": `},
		{proxyOptions{from: "localhost", path: "/", to: []string{"stageing"}}, `--to: upstream "stageing": `},
		{proxyOptions{from: "localhost", path: "/", to: []string{"production", "staging"}}, "--to: "},
		{proxyOptions{from: ":8080", path: "/", internalCerts: true}, "--internal-certs"},
		{proxyOptions{from: "http://localhost", path: "/", internalCerts: true}, "--internal-certs"},
	} {
		if _, _, err := test.options.config(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %s", test.options, err, test.want)
		}
	}
}

// TestProxyCommandURL: what the flags stand for is what the SDK is told.
func TestProxyCommandURL(t *testing.T) {
	for want, o := range map[string]proxyOptions{
		"wss://localhost/websocket":             {from: "localhost", path: "/websocket/*"},
		"wss://proxy.example.com:8443":          {from: "proxy.example.com:8443", path: "/"},
		"ws://proxy.example.com/rtc":            {from: "http://proxy.example.com", path: "/rtc"},
		"ws://localhost:8080/rtc":               {from: ":8080", path: "/rtc"},
		"wss://localhost:8443/rtc":              {from: "https://:8443", path: "/rtc"},
		"ws://proxy.example.com":                {from: "proxy.example.com:80", path: "/"},
		"wss://[2001:db8::1]:8443/rtc":          {from: "[2001:db8::1]:8443", path: "/rtc"},
		"wss://proxy.example.com/a-deeper/path": {from: "https://proxy.example.com:443", path: "/a-deeper/path/"},
	} {
		config, got, err := o.config()
		if err != nil || got != want {
			t.Errorf("%+v: %s, %v; want %s", o, got, err, want)
			continue
		}
		config.StorageRaw = json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, scratch))
		config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {
			BaseLog: caddy.BaseLog{WriterRaw: []byte(`{"output": "discard"}`)},
		}}}
		if err := caddy.Validate(config); err != nil {
			t.Error(err)
		}
	}
}

// TestProxyCommand: the configuration of the flags proxies, at the mount alone, and
// keeps the key out of its logs.
func TestProxyCommand(t *testing.T) {
	relay := devrelay.New(devrelay.Config{})
	server := httptest.NewServer(relay)
	t.Cleanup(func() {
		relay.Close()
		server.Close()
	})
	log := filepath.Join(scratch, "command.log")
	addr := startConfig(t, func(addr string) []byte {
		_, port, _ := net.SplitHostPort(addr)
		config, _, err := proxyOptions{
			from: "http://localhost:" + port, to: []string{"ws" + strings.TrimPrefix(server.URL, "http")},
			path: "/websocket", accessLog: true, debug: true,
		}.config()
		if err != nil {
			t.Fatal(err)
		}
		config.StorageRaw = json.RawMessage(fmt.Sprintf(`{"module": "file_system", "root": %q}`, scratch))
		config.Logging.Logs["default"].WriterRaw = json.RawMessage(fmt.Sprintf(`{"output": "file", "filename": %q, "roll": false}`, log))
		raw, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		return withoutDrain(t, raw)
	})
	dial := func() *wstest.Conn {
		c, err := wstest.Dialer{}.Dial(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Drop() })
		return c
	}
	if _, err := dial().Handshake("/websocket?apiKey=secret-key", "Host: localhost", "Sec-WebSocket-Protocol: 2.0"); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]int{"/websocket/get-qualityrtc-config?apiKey=secret-key": 200, "/websocketX?apiKey=secret-key": 200} {
		other := dial()
		if err := other.WriteRequest("GET", target, "Host: localhost"); err != nil {
			t.Fatal(err)
		}
		response, err := other.ReadResponse("GET")
		if err != nil || response.StatusCode != want {
			t.Fatalf("%s: %v, %v, want %d", target, response, err, want)
		}
		if relayed := response.Header.Get("Content-Security-Policy") != ""; relayed != strings.Contains(target, "/websocket/") {
			t.Errorf("%s: relayed %t", target, relayed)
		}
	}
	for _, line := range awaitAccess(t, log, 3) {
		if strings.Contains(line, "secret-key") || !strings.Contains(line, "REDACTED") {
			t.Errorf("%s", line)
		}
	}
}

// awaitAccess waits until a log file has n lines of access logs.
func awaitAccess(t *testing.T, file string, n int) (lines []string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines = lines[:0]
		for line := range strings.Lines(string(content)) {
			if strings.Contains(line, "http.log.access") {
				lines = append(lines, line)
			}
		}
		if len(lines) >= n {
			return lines
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines, want %d, in\n%s", len(lines), n, content)
		}
	}
}

// withoutDrain ends the proxy's tunnels with its configuration.
func withoutDrain(t *testing.T, config []byte) []byte {
	t.Helper()
	changed := bytes.Replace(config, []byte(`"handler":"watchrtc_proxy"`), []byte(`"drain_window":0,"handler":"watchrtc_proxy"`), 1)
	if bytes.Equal(changed, config) {
		t.Fatalf("no handler in %s", config)
	}
	return changed
}

// TestCommandPages: help, man pages and completion are those of Caddy's own commands.
func TestCommandPages(t *testing.T) {
	for name, flags := range map[string][]string{
		"watchrtc-check": {"--api-key", "--token", "--origin", "--count", "--every", "--insecure", "--json"},
		"watchrtc-proxy": {"--from", "--to", "--path", "--internal-certs", "--access-log", "--debug"},
	} {
		var out, errs bytes.Buffer
		root := command(t, name, &out, &errs)
		root.SetArgs([]string{"help", name})
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		for _, flag := range flags {
			if strings.Count(out.String(), flag+" ") < 2 && strings.Count(out.String(), flag) < 2 {
				t.Errorf("help of %s lacks %s:\n%s", name, flag, out.String())
			}
		}
		for line := range strings.Lines(caddycmd.Commands()[name].Long) {
			if len(line) > 86 {
				t.Errorf("help of %s: a long line: %s", name, line)
			}
		}
	}
}
