package integration_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
	_ "github.com/caddy-watchrtc/watchrtc-proxy/top"
)

// top runs `caddy watchrtc-top`.
func (a admin) top(flags ...string) (output string, err error) {
	cmd := new(cobra.Command)
	caddycmd.Commands()["watchrtc-top"].CobraFunc(cmd)
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SilenceUsage = true
	cmd.SetArgs(append([]string{"--address", strings.TrimPrefix(a.url, "http://")}, flags...))
	err = cmd.Execute()
	return out.String() + errs.String(), err
}

// TestTop: what it writes is what the metrics have.
func TestTop(t *testing.T) {
	t.Setenv("LC_ALL", "C") // so that it writes ASCII
	relay := newServer(t)
	s := mount(relay.upstream, "drain_window 1h")
	a := withAdmin(t, &s)
	p := start(t, s)
	gone := p.session(t, "gone")
	gone.close(t, 1000)
	p.logs.awaitLines(t, 1, `"tunnel closed"`, relay.upstream)
	p.session(t, "session-of-top", "X-Forwarded-For: 192.0.2.1")
	d := a.drain(t, `{"all":true,"window":"24h"}`)
	defer a.ask(t, "DELETE", fmt.Sprint(adminapi.PathDrain, "/", d.ID), "", http.StatusNoContent, nil)

	// Both take two polls, so they run at once.
	texts := make(chan string)
	go func() {
		text, err := a.top("--once")
		if err != nil {
			t.Error(err)
		}
		texts <- text
	}()
	output, err := a.top("--once", "--json")
	text := <-texts
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		adminapi.Status
		IntervalSeconds float64             `json:"interval_seconds"`
		Rates           map[string]*float64 `json:"rates"`
		Closes          []struct {
			By, Code string
			Total    uint64
		} `json:"closes"`
		Busiest []adminapi.Tunnel `json:"busiest"`
		Idle    []adminapi.Tunnel `json:"idle"`
	}
	if err := json.Unmarshal([]byte(output), &r); err != nil || strings.Count(output, "\n") != 1 {
		t.Fatalf("%v: %s", err, output)
	}
	if r.Tunnels != 1 || r.Engine == "" || r.IntervalSeconds < 1.9 || len(r.Drains) != 1 || r.Drains[0].Left != 1 || len(r.Rates) != 7 {
		t.Errorf("%s", output)
	}
	for name, rate := range r.Rates {
		if rate == nil || *rate != 0 {
			t.Errorf("%s in %s, want 0", name, output)
		}
	}
	for _, list := range [][]adminapi.Tunnel{r.Busiest, r.Idle} {
		if len(list) != 1 || list[0].SessionID != "session-of-top" || list[0].ClientIP != "192.0.2.1" || list[0].FramesToRelay != 1 || list[0].BytesToRelay != 11 {
			t.Errorf("%+v", list)
		}
	}
	normal := uint64(0) // with those of other tests, as the totals are the process's
	for _, closes := range r.Closes {
		if closes.By == "client" && closes.Code == "1000" {
			normal = closes.Total
		}
	}
	if normal == 0 {
		t.Errorf("no close in %s", output)
	}
	for _, want := range []string{"tunnels                      1\n", "session-of-top", "192.0.2.1", relay.upstream[:20], "drain ", "1 of 1 left, ends in 23h59m", "client  1000 normal"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, r := range text {
		if r > '~' || r < ' ' && r != '\n' {
			t.Fatalf("%q in\n%s", r, text)
		}
	}
}

// TestTopErrors: in words, with exit status 1, which an error makes.
func TestTopErrors(t *testing.T) {
	for _, test := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--once"}, "Error: nothing listens at 127.0.0.1:"},
		{[]string{"--json"}, "Error: nothing listens at 127.0.0.1:"},
		{nil, "Error: the output is no terminal: use --once or --json"},
		{[]string{"--address", "http://localhost:2019"}, `Error: --address "http://localhost:2019": want host:port`},
		{[]string{"--every", "1s"}, "Error: unknown flag: --every"},
		{[]string{"once"}, "Error: unknown command"},
	} {
		output, err := admin{url: "http://" + wstest.DeadAddr(t)}.top(test.flags...)
		if err == nil || !strings.HasPrefix(output, test.want) || strings.Count(output, "\n") > 1 {
			t.Errorf("%q: %v, %s, want %s", test.flags, err, output, test.want)
		}
	}
}

// TestTopIsApart: who builds the plugin has neither the command nor the terminal's
// library in the binary.
func TestTopIsApart(t *testing.T) {
	if testing.Short() {
		t.Skip("lists all packages of Caddy")
	}
	apart := []string{module + "/top", "github.com/gdamore/tcell/v3"}
	for pkg, want := range map[string]bool{module: false, module + "/cmd/caddy": true} {
		output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		deps := strings.Fields(string(output))
		for _, dep := range apart {
			if slices.Contains(deps, dep) != want {
				t.Errorf("%s contains %s: %t, want %t", pkg, dep, !want, want)
			}
		}
	}
}
