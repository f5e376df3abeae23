package watchrtcproxy

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/check"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const (
	checkedKey    = "very-public-key"
	checkedOrigin = "https://app.example.com"
	checkedPage   = "docs/check.md"
)

// setup is a proxy that watchrtc-check is let loose on.
type setup struct {
	title, about string
	url          string // wss://proxy.example.com/websocket if empty

	site        string // body of the site; {relay} is a relay's address, {mount} the directive
	servers     string // options of Caddy's servers
	certificate func(*x509.Certificate)
	host        string // that the certificate is for; proxy.example.com if empty
	front       bool   // something stands in front that strips the upgrade
	clock       time.Duration

	mistake string // in the verdict
}

const mountDirective = "watchrtc_proxy /websocket ws://{relay} {\ndrain_window 0\n}"

var setups = []setup{
	{
		title: "All is well", about: "`watchrtc_proxy /websocket`, and nothing else.",
		site: mountDirective, mistake: "all well",
	},
	{
		title: "The mount is forgotten", about: "The proxy is at `/websocket`, the rest is a `file_server`; the URL has no path.",
		url: "wss://proxy.example.com", site: mountDirective + "\nfile_server", mistake: "the mount is forgotten",
	},
	{
		title: "The mount is wrong", about: "The proxy is at `/websocket`, the URL says something else.",
		url: "wss://proxy.example.com/watchrtc", site: mountDirective, mistake: "the mount is wrong",
	},
	{
		title: "A plain web server", about: "A site without `watchrtc_proxy`.",
		site: "respond \"my site\"", mistake: "this is a plain web server",
	},
	{
		title: "The WebSocket upgrade is stripped",
		about: "Something in front of the proxy does not pass on `Upgrade` and `Connection`. Clients still have HTTPS.",
		site:  mountDirective, front: true, mistake: "the WebSocket upgrade is stripped",
	},
	{
		title: "The certificate is for another name", about: "The site is `www.example.com`, the URL says `proxy.example.com`.",
		site: mountDirective, host: "www.example.com", mistake: "the certificate is for another name",
	},
	{
		title: "The certificate has expired", about: "It could not be renewed.",
		site: mountDirective, mistake: "the certificate has expired",
		certificate: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-93*24*time.Hour), time.Now().Add(-3*24*time.Hour-time.Hour)
		},
	},
	{
		title: "CORS is missing", about: "The site's `header_down` takes `Access-Control-Allow-Origin` away.",
		site:    strings.Replace(mountDirective, "{\n", "{\nheader_down -Access-Control-Allow-Origin\n", 1),
		mistake: "CORS is missing",
	},
	{
		title: "A redirect to another host", about: "The site redirects to `www.example.com`.",
		site: "redir https://www.example.com{uri}", mistake: "the server redirects to another host",
	},
	{
		title: "HTTP/2 only", about: "`protocols h2` in Caddy's `servers`.",
		site: mountDirective, servers: "protocols h2", mistake: "the server speaks HTTP/2 only",
	},
	{
		title: "The relay is down", about: "The proxy works, its relay does not.",
		site: strings.Replace(mountDirective, "{relay}", "127.0.0.1:1", 1), mistake: "the relay is down, or the proxy does not reach it",
	},
	{
		title: "The clock is off", about: "This computer's clock is ahead.",
		site: mountDirective, clock: 400 * 24 * time.Hour, mistake: "the clock of this computer is off",
	},
}

// TestCheckSetups runs watchrtc-check on each set-up. Its output is what the page of
// the documentation shows, to the letter.
func TestCheckSetups(t *testing.T) {
	if len(setups) != 12 {
		t.Errorf("%d set-ups, want 12", len(setups))
	}
	page := strings.Builder{}
	for _, s := range setups {
		t.Run(s.title, func(t *testing.T) { page.WriteString(s.describe(t)) })
	}
	if t.Failed() {
		return
	}
	content, err := os.ReadFile(checkedPage)
	if err != nil {
		t.Fatal(err)
	}
	intro, old, ok := strings.Cut(string(content), setupsMark)
	if !ok {
		t.Fatalf("%s lacks %q", checkedPage, setupsMark)
	}
	switch fresh := page.String(); {
	case old == fresh:
	case *update:
		if err := os.WriteFile(checkedPage, []byte(intro+setupsMark+fresh), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the command writes: run `go test -run TestCheckSetups -update .`; it writes\n%s", checkedPage, fresh)
	}
	for line := range strings.Lines(page.String()) {
		if len([]rune(line)) > 121 {
			t.Errorf("a line is longer than 120 characters: %s", line)
		}
	}
}

// setupsMark is the line of the page below which this test writes.
const setupsMark = "<!-- Below this line `go test -run TestCheckSetups -update .` writes. -->\n"

// describe runs the check and returns its section of the page.
func (s setup) describe(t *testing.T) string {
	var out bytes.Buffer
	c := &checking{options: s.start(t), count: 1, every: time.Second, printer: check.Printer{W: &out}}
	status := 0
	if !c.run(testContext(t)) {
		status = 1
	}
	if want := s.mistake == "all well"; want != (status == 0) {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(out.String(), s.mistake+"\n") {
		t.Errorf("the verdict is not %q:\n%s", s.mistake, out.String())
	}
	wantNoSecret(t, out.String())
	return fmt.Sprintf("\n### %s\n\n%s\n\n```\n$ caddy watchrtc-check --api-key KEY --origin %s %s\n%s\n$ echo $?\n%d\n```\n",
		s.title, s.about, checkedOrigin, c.options.URL, strings.TrimRight(withoutTimes(out.String()), "\n"), status)
}

func wantNoSecret(t *testing.T, text string) {
	t.Helper()
	for _, secret := range []string{checkedKey, "apiKey", "timestamp="} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in\n%s", secret, text)
		}
	}
}

// withoutTimes replaces each step's time.
func withoutTimes(out string) string {
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		if before, detail, ok := strings.Cut(line, " ms  "); ok && len(before) > 24 {
			lines[i] = line[:24] + "   (time)  " + detail
		}
	}
	return strings.Join(lines, "\n")
}

// checkedSite is a Caddyfile of one site for every host name.
const checkedSite = `{
	admin off
	auto_https off
	persist_config off
	storage file_system %s
	default_bind 127.0.0.1
	grace_period 5s
	log default {
		output discard
	}
	servers {
		%s
	}
}
%s://:%s {
	%s
	%s
}`

// start starts the set-up and returns how to check it.
func (s setup) start(t *testing.T) check.Options {
	t.Helper()
	relay := devrelay.New(devrelay.Config{})
	server := httptest.NewServer(relay)
	t.Cleanup(func() {
		relay.Close()
		server.Close()
	})
	authority := wstest.NewAuthority("Example Authority")
	host := s.host
	if host == "" {
		host = "proxy.example.com"
	}
	edit := s.certificate
	if edit == nil {
		edit = func(c *x509.Certificate) { c.NotAfter = time.Now().Add(90*24*time.Hour + time.Hour) }
	}
	leaf := authority.IssueWith(edit, host)
	files, err := leaf.WriteFiles(t.TempDir(), "site")
	if err != nil {
		t.Fatal(err)
	}
	scheme, certificate := "https", fmt.Sprintf("tls %s %s", filepath.ToSlash(files.Cert), filepath.ToSlash(files.Key))
	if s.front {
		scheme, certificate = "http", ""
	}
	body := strings.ReplaceAll(s.site, "{relay}", strings.TrimPrefix(server.URL, "http://"))
	addr := startConfig(t, func(addr string) []byte {
		_, port, _ := net.SplitHostPort(addr)
		return adapt(t, fmt.Sprintf(checkedSite, scratch, s.servers, scheme, port, certificate, body))
	})
	if s.front {
		addr = stripper(t, addr, leaf)
	}
	raw := s.url
	if raw == "" {
		raw = "wss://proxy.example.com/websocket"
	}
	u, err := check.ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	return check.Options{
		URL: u, APIKey: checkedKey, Origin: checkedOrigin, Roots: authority.Pool,
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
		Now: func() time.Time { return time.Now().Add(s.clock) },
	}
}

// stripper is a proxy in front that passes on requests, but not that they ask for an
// upgrade, as nginx does unless it is told otherwise.
func stripper(t *testing.T, addr string, leaf *wstest.Leaf) string {
	t.Helper()
	transport := new(http.Transport)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.Transport = transport
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		proxy.ServeHTTP(w, r)
	}))
	front.TLS = leaf.ServerConfig("http/1.1")
	front.StartTLS()
	t.Cleanup(func() {
		front.Close()
		transport.CloseIdleConnections()
	})
	return front.Listener.Addr().String()
}

// TestCheckJSON: one line for each check, with the fields of the documentation.
func TestCheckJSON(t *testing.T) {
	var out bytes.Buffer
	c := &checking{options: setups[8].start(t), count: 2, every: time.Millisecond, json: true, printer: check.Printer{W: &out}}
	if c.run(testContext(t)) {
		t.Error("all is well")
	}
	wantNoSecret(t, out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		var report struct {
			URL   string
			OK    *bool
			Steps []struct {
				Name, Status, Detail, Hint *string
				MS                         *float64
			}
		}
		decoder := json.NewDecoder(strings.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&report); err != nil {
			t.Fatal(err)
		}
		if report.URL != "wss://proxy.example.com/websocket" || report.OK == nil || *report.OK || len(report.Steps) != 8 {
			t.Errorf("%s", line)
		}
		for _, step := range report.Steps {
			if step.Name == nil || step.Status == nil || step.Detail == nil || step.Hint == nil || step.MS == nil {
				t.Errorf("%+v lacks a field", step)
			}
		}
	}
}

// TestCheckRepeats: the first check in full, one line for each other, and a summary.
func TestCheckRepeats(t *testing.T) {
	var out bytes.Buffer
	c := &checking{options: setups[0].start(t), count: 3, every: time.Millisecond, printer: check.Printer{W: &out}}
	if !c.run(testContext(t)) {
		t.Error("something failed")
	}
	for text, times := range map[string]int{
		"resolve ": 1, "ok          all well": 1, "#2 ": 1, "#3 ": 1, "#4 ": 0, "3 checks, 0 failed; websocket least": 1,
	} {
		if n := strings.Count(out.String(), text); n != times {
			t.Errorf("%q comes %d times, want %d:\n%s", text, n, times, out.String())
		}
	}
}

// TestCheckInterrupted: what is under way does not count.
func TestCheckInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	var out bytes.Buffer
	options := setups[0].start(t)
	var lookups int
	lookup := options.Lookup
	options.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
		if lookups++; lookups == 2 {
			cancel()
		}
		return lookup(ctx, host)
	}
	c := &checking{options: options, every: time.Millisecond, printer: check.Printer{W: &out}}
	if !c.run(ctx) {
		t.Error("something failed")
	}
	if !strings.Contains(out.String(), "interrupted") || !strings.Contains(out.String(), "1 check, 0 failed") {
		t.Errorf("%s", out.String())
	}
}
