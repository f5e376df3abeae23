package integration_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// sdkRelay knows what the SDK asks for, and nothing else.
func sdkRelay(t *testing.T) *wstest.Relay {
	return rawRelay(t, func(c *wstest.Conn) {
		for {
			r, err := c.ReadRequest()
			if err != nil {
				return
			}
			if r.Header.Get("Upgrade") != "" && r.URL.Path == "/" {
				c.WriteResponseHead("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
					"Sec-WebSocket-Accept: "+wstest.Accept(r.Header.Get("Sec-Websocket-Key")))
				c.ReadToEnd()
				return
			}
			io.Copy(io.Discard, r.Body)
			if r.Method == http.MethodPost && r.URL.Path == "/trace" {
				c.WriteResponse("200 OK", "relay")
			} else {
				c.WriteResponse("404 Not Found", "")
			}
		}
	})
}

// asSDK opens a WebSocket and posts to /trace, as the SDK does with a proxyUrl of this
// path.
func (p *proxy) asSDK(t *testing.T, proxyURL string) (webSocket, trace int) {
	t.Helper()
	c := p.open(t, http1, proxyURL+"?apiKey="+secret+"&timestamp=1&apiVersion=v1&sessionId=s&newConnection=true", "",
		"Sec-WebSocket-Protocol: 2.0", "Origin: https://app.example")
	r := request(t, "POST", p.url(proxyURL+"/trace"), strings.NewReader("{}"), "Origin: https://app.example", "Content-Type: application/json")
	response, _ := ask(t, p.client(t, http1), r)
	return c.StatusCode, response.StatusCode
}

// singlePage is the folder of an application of one page.
func singlePage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte("the application"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// login is a basic_auth that nobody passes.
const login = "basic_auth {\nuser $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}"

// mistake is what somebody writes, and what comes of it. A row of docs/troubleshooting.md
// has its name as the cause.
type mistake struct {
	name     string
	body     string // of the site: {relay} is the upstream, {tls} options to reach it, {site} a folder, {self} the site
	server   string // in servers { }
	proxyURL string // the path; /websocket if empty

	refused string // by the load, in words; else
	warned  string // by the load
	hint    string // by a request
	clean   bool   // no warning and no hint at all

	webSocket, trace int
	check            func(t *testing.T, p *proxy) // what else the person sees
}

var mistakes = []mistake{
	// Refused.
	{name: "The mount is written without its slash", body: "watchrtc_proxy websocket {relay}", refused: `as a mount it would be written "/websocket"`},
	{name: "The mount is written without its slash", body: "watchrtc_proxy websocket", refused: `as a mount it would be written "/websocket"`},
	{name: "Two paths in one directive", body: "watchrtc_proxy /websocket /rtc {relay}", refused: `upstream "/rtc": it is a path, and a directive has one mount`},
	{name: "The mount holds a query", body: "watchrtc_proxy /websocket?room=1 {relay}", refused: `mount "/websocket?room=1": no path holds a ? or #`},
	{name: "The proxy's own URL where the mount belongs", body: "watchrtc_proxy wss://my.example/websocket {relay}", refused: "write the path alone, such as /websocket"},
	{name: "A preset written as a URL", body: "watchrtc_proxy /websocket wss://production", refused: `its host is the name of a preset, which is written "production" alone`},
	{name: "Two upstreams", body: "watchrtc_proxy /websocket production staging", refused: "one upstream is supported"},
	{name: "A path, a slash at the end, `wss`, or no scheme", body: "watchrtc_proxy /websocket {\norigins app.example\n}", refused: `origins "app.example": it is no origin`},
	{name: "A path, a slash at the end, `wss`, or no scheme", body: "watchrtc_proxy /websocket {\norigins https://app.example/\n}", refused: `origins "https://app.example/"`},
	{name: "The key as it stands in the page", body: "watchrtc_proxy /websocket {\napi_keys staging:k\n}", refused: `api_keys "staging:k": the SDK cuts "staging:" off a key before it sends it`},
	{name: "`trusted_proxies` in `servers`, without `trusted_proxies_strict`", server: "trusted_proxies static private_ranges", body: "watchrtc_proxy /websocket {\nmax_tunnels_per_client 5\n}", refused: "max_tunnels_per_client 5: the server's trusted_proxies take the left-most address"},
	{name: "A preset or an option is misspelled", body: "watchrtc_proxy /websocket stageing", refused: `did you mean "staging"?`},
	{name: "A preset or an option is misspelled", body: "watchrtc_proxy /websocket {\nidle_time 5m\n}", refused: `did you mean "idle_timeout"?`},
	{name: "An option of `reverse_proxy`", body: "watchrtc_proxy /websocket {\nflush_interval -1\n}", refused: `unknown option "flush_interval"`},
	{name: "A Caddy without the plugin", body: "watchrtc_proxi /websocket", refused: "unrecognized directive: watchrtc_proxi"},
	{name: "The same mount twice", body: "watchrtc_proxy /websocket {relay} {tls}\nwatchrtc_proxy /websocket staging", refused: "has the same mount"},
	{name: "`handle_path` or `uri strip_prefix` around a mount", body: "handle_path /websocket* {\nwatchrtc_proxy /websocket {relay} {tls}\n}", refused: "want the path in one of the two places"},
	{name: "`handle_path` or `uri strip_prefix` around a mount", body: "route {\nuri strip_prefix /websocket\nwatchrtc_proxy /websocket {relay} {tls}\n}", refused: "want the path in one of the two places"},

	// Warned of.
	{name: "A path around the directive, or a named matcher, instead of a mount", body: "handle /websocket* {\nwatchrtc_proxy {relay} {tls}\n}\nrespond app",
		warned: "matched and not cut off", hint: "the mount is not cut off", webSocket: 404, trace: 404},
	{name: "A path around the directive, or a named matcher, instead of a mount", body: "@ws path /websocket*\nwatchrtc_proxy @ws {relay} {tls}\nrespond app",
		warned: "matched and not cut off", hint: "the mount is not cut off", webSocket: 404, trace: 404},
	{name: "A path around the directive, or a named matcher, instead of a mount", body: "route /websocket* {\nwatchrtc_proxy {relay} {tls}\n}\nrespond app",
		warned: "matched and not cut off", hint: "the mount is not cut off", webSocket: 404, trace: 404},
	{name: "A path around the directive, or a named matcher, instead of a mount", body: "watchrtc_proxy /w*t {relay} {tls}\nrespond app",
		warned: "matched and not cut off", hint: "the mount is not cut off", webSocket: 404, trace: 200},
	{name: "`uri strip_prefix` beside a directive without a mount", body: "handle /websocket* {\nuri strip_prefix /websocket\nwatchrtc_proxy {relay} {tls}\n}",
		warned: "matched and not cut off", hint: "the mount is not cut off", webSocket: 404, trace: 404},
	{name: "`handle /websocket`, which takes this path alone", body: "handle /websocket {\nwatchrtc_proxy /websocket {relay} {tls}\n}\nrespond app",
		warned: `takes the WebSocket at "/websocket", and not "/websocket/trace"`, webSocket: 101, trace: 200},
	{name: "`handle /websocket/*`, which takes what is below alone", body: "handle /websocket/* {\nwatchrtc_proxy /websocket {relay} {tls}\n}\nrespond app",
		warned: `takes "/websocket/trace", and not the WebSocket at "/websocket"`, webSocket: 200, trace: 200},
	{name: "`handle /websocket/*`, which takes what is below alone", body: "handle_path /websocket/* {\nwatchrtc_proxy {relay} {tls}\n}\nrespond app",
		warned: `takes "/websocket/trace", and not the WebSocket at "/websocket"`, webSocket: 200, trace: 200},
	{name: "A mount within another path", body: "handle /rtc* {\nwatchrtc_proxy /websocket {relay} {tls}\n}\nrespond app",
		warned: "no request comes to it", webSocket: 200, trace: 200},
	{name: "`rewrite` or `try_files` first, in a `route`", body: "route {\nrewrite * /index.html\nwatchrtc_proxy /websocket {relay} {tls}\n}",
		warned: `"/index.html" stands before it`, webSocket: 200, trace: 200},
	{name: "`rewrite` or `try_files` first, in a `route`", body: "route {\nrewrite * /\nwatchrtc_proxy {relay} {tls}\n}",
		warned: `"/" stands before it`, webSocket: 101, trace: 404},
	{name: "`rewrite` or `try_files` first, in a `route`", body: "root {site}\nroute {\ntry_files {path} /index.html\nwatchrtc_proxy /websocket {relay} {tls}\nfile_server\n}",
		warned: "stands before it", webSocket: 200, trace: 405},
	{name: "A login in front, in a `route`", body: "route {\n" + login + "\nwatchrtc_proxy /websocket {relay} {tls}\n}",
		warned: "the SDK cannot log in", webSocket: 401, trace: 401},
	{name: "`request_body` in front", body: "request_body {\nmax_size 1\n}\nwatchrtc_proxy /websocket {relay} {tls}",
		warned: "use max_body_size", webSocket: 101, trace: 413},
	{name: "A redirect in front", body: "redir /websocket /websocket/ 301\nwatchrtc_proxy /websocket {relay} {tls}",
		warned: `no request for "/websocket" comes to it: static_response`, webSocket: 301, trace: 200},
	{name: "Something that responds first, in a `route`", body: "route {\nrespond app\nwatchrtc_proxy /websocket {relay} {tls}\n}",
		warned: "no request for", webSocket: 200, trace: 200},
	{name: "Something that responds first, in a `route`", body: "root {site}\nroute {\nfile_server\nwatchrtc_proxy /websocket {relay} {tls}\n}",
		warned: "no request for", webSocket: 404, trace: 404},
	{name: "No mount, beside an application", body: "watchrtc_proxy {relay} {tls}\nrespond app", proxyURL: "/",
		warned: "it has no mount and takes every request", webSocket: 101, trace: 200},
	{name: "A mount within a mount", body: "watchrtc_proxy /websocket {relay} {tls}\nwatchrtc_proxy /websocket/eu {relay} {tls}", proxyURL: "/websocket/eu",
		warned: "watchrtc_proxy stands before it", hint: "goes on below the mount", webSocket: 404, trace: 404},

	// Told by the first request.
	{name: "The `proxyUrl` lacks the mount, or has another", body: "watchrtc_proxy /websocket {relay} {tls}\nrespond app", proxyURL: "/",
		hint: "its proxyUrl must end with the mount", webSocket: 200, trace: 200},
	{name: "The `proxyUrl` lacks the mount, or has another", body: "root {site}\ntry_files {path} /index.html\nfile_server\nwatchrtc_proxy /websocket {relay} {tls}", proxyURL: "/websockets",
		hint: "its proxyUrl must end with the mount", webSocket: 200, trace: 405},
	{name: "The `proxyUrl` has a query", body: "watchrtc_proxy /websocket {relay} {tls}", proxyURL: "/websocket?x=1",
		hint: "the SDK's proxyUrl has a query", webSocket: 101, trace: 404},
	{name: "The `proxyUrl` goes on below the mount", body: "watchrtc_proxy /websocket {relay} {tls}", proxyURL: "/websocket/v1",
		hint: "goes on below the mount", webSocket: 404, trace: 404},
	{name: "The upstream's path is wrong", body: "watchrtc_proxy /websocket {relay}/websocket {tls}",
		hint: "the upstream's path is probably wrong", webSocket: 404, trace: 404},
	{name: "The upstream is no relay", body: "watchrtc_proxy /websocket {app}",
		hint: "probably no watchRTC relay", webSocket: 200, trace: 200},
	{name: "The upstream is `ws` and its port has TLS", body: "watchrtc_proxy /websocket {plain}",
		hint: "if that is a TLS port, write wss", webSocket: 400, trace: 400},
	{name: "The upstream is `wss` and its port has no TLS", body: "watchrtc_proxy /websocket {secured-app}",
		webSocket: 502, trace: 502, check: func(t *testing.T, p *proxy) { p.logs.await(t, "relay failed", `"stage":"tls"`) }},
	{name: "The upstream leads back to the proxy", body: "watchrtc_proxy /websocket {self}/websocket {tls}",
		hint: "leads back to this Caddy", webSocket: 508, trace: 508},
	{name: "Two proxies in a row, and the second one's mount is missing", body: "watchrtc_proxy /first {second} {tls}\nrespond 404", proxyURL: "/first",
		hint: "another proxy whose mount belongs into the upstream's path", webSocket: 404, trace: 404},

	// Nothing wrong with it.
	{name: "The `proxyUrl` ends in a slash", body: "watchrtc_proxy /websocket {relay} {tls}", proxyURL: "/websocket/", clean: true, webSocket: 101, trace: 200},
	{name: "The `proxyUrl` begins with `https://`", body: "watchrtc_proxy /websocket {relay} {tls}", clean: true, webSocket: 101, trace: 200,
		check: func(t *testing.T, p *proxy) { // what a browser makes of https:// is the same request
			wantStatus(t, p.open(t, http2x, target, "").Response, http.StatusOK)
		}},
	{name: "Upper and lower case differ", body: "watchrtc_proxy /WebSocket {relay} {tls}", clean: true, webSocket: 101, trace: 200},
	{name: "Lines copied from another proxy's configuration", body: "watchrtc_proxy /websocket {relay} {\n{trust}\nheader_up Connection upgrade\nheader_up Upgrade websocket\nheader_up Host {http.reverse_proxy.upstream.hostport}\n}",
		clean: true, webSocket: 101, trace: 200},
	{name: "The site sets `Access-Control-Allow-Origin`", body: "header Access-Control-Allow-Origin *\nwatchrtc_proxy /websocket {relay} {tls}", clean: true, webSocket: 101, trace: 200},
	{name: "The site's login", body: login + "\nrespond app\nwatchrtc_proxy /websocket {relay} {tls}", clean: true, webSocket: 101, trace: 200,
		check: func(t *testing.T, p *proxy) {
			p.logs.await(t, `"level":"info"`, "a login of this site does not cover the mount")
			response, _ := ask(t, p.client(t, http1), request(t, "GET", p.url("/"), nil))
			wantStatus(t, response, http.StatusUnauthorized)
		}},
	{name: "The site's login", body: "handle /websocket* {\n" + login + "\nwatchrtc_proxy /websocket {relay} {tls}\n}", webSocket: 101, trace: 200, clean: true,
		check: func(t *testing.T, p *proxy) { p.logs.await(t, "a login of this site does not cover the mount") }},
	{name: "The site's login", body: "forward_auth {app} {\nuri /login\n}\nwatchrtc_proxy /websocket {relay} {tls}", webSocket: 101, trace: 200, clean: true,
		check: func(t *testing.T, p *proxy) { p.logs.await(t, "a login of this site does not cover the mount") }},

	// What the proxy does not see.
	{name: "`ws://` in the `proxyUrl`, to a port with TLS", body: "watchrtc_proxy /websocket {relay} {tls}", clean: true, webSocket: 101, trace: 200,
		check: func(t *testing.T, p *proxy) {
			response, body := ask(t, http.DefaultClient, request(t, "GET", "http://"+p.addr+"/websocket", nil))
			wantStatus(t, response, http.StatusBadRequest)
			wantBody(t, body, "Client sent an HTTP request to an HTTPS server.\n")
		}},
	{name: "`wss://` in the `proxyUrl`, to a port without TLS", body: "watchrtc_proxy /websocket {relay} {tls}", clean: true, webSocket: 101, trace: 200,
		check: func(t *testing.T, _ *proxy) {
			p := startPlain(t)
			_, err := tls.Dial("tcp", p.addr, &tls.Config{ServerName: "localhost"})
			if noTLS := new(tls.RecordHeaderError); !errors.As(err, noTLS) {
				t.Errorf("%v, want what says that this is no TLS", err)
			}
		}},
	{name: "A `try_files` beside the API's `reverse_proxy`", body: "root {site}\ntry_files {path} /index.html\nreverse_proxy /api/* {app}\nfile_server\nwatchrtc_proxy /websocket {relay} {tls}",
		clean: true, webSocket: 101, trace: 200, check: func(t *testing.T, p *proxy) {
			_, body := ask(t, p.client(t, http1), request(t, "GET", p.url("/api/rooms"), nil))
			wantBody(t, body, "the application")
		}},
	{name: "The browser does not trust the certificate", body: "watchrtc_proxy /websocket {relay} {tls}", clean: true, webSocket: 101, trace: 200,
		check: func(t *testing.T, p *proxy) {
			_, err := tls.Dial("tcp", p.addr, &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"})
			if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) {
				t.Errorf("%v, want an unknown authority", err)
			}
		}},
	{name: "The page's own `Content-Security-Policy`", body: "header Content-Security-Policy \"default-src 'self'\"\nwatchrtc_proxy /websocket {relay} {tls}\nrespond app", clean: true, webSocket: 101, trace: 200,
		check: func(t *testing.T, p *proxy) {
			response, _ := ask(t, p.client(t, http1), request(t, "GET", p.url("/"), nil))
			wantField(t, response.Header, "Content-Security-Policy", "default-src 'self'")
		}},
	{name: "An ad blocker", body: "watchrtc_proxy /ordinary {relay} {tls}", proxyURL: "/ordinary", clean: true, webSocket: 101, trace: 200},
}

// TestMistakes makes each of them.
func TestMistakes(t *testing.T) {
	for i, m := range mistakes {
		t.Run(fmt.Sprintf("%d %s", i, m.name), func(t *testing.T) {
			if m.refused != "" {
				m.wantRefused(t)
				return
			}
			p := startFilled(t, m.body)
			webSocket, trace := p.asSDK(t, or(m.proxyURL, "/websocket"))
			if webSocket != m.webSocket || trace != m.trace {
				t.Errorf("the WebSocket gets %d and /trace %d, want %d and %d", webSocket, trace, m.webSocket, m.trace)
			}
			if m.warned != "" {
				p.logs.await(t, `"level":"warn"`, quoted(m.warned))
			}
			if m.hint != "" {
				p.logs.await(t, `"level":"warn"`, "probably a mistake", m.hint, p.upstream)
			}
			if m.clean {
				p.wantNoWarning(t)
			}
			if m.check != nil {
				m.check(t, p.proxy)
			}
		})
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// quoted is how a JSON log has quotation marks.
func quoted(s string) string { return strings.ReplaceAll(s, `"`, `\"`) }

func (m mistake) wantRefused(t *testing.T) {
	t.Helper()
	newLogs()
	err := load(site{server: m.server, body: filled(t, m.body)}, freePort(t))
	if err == nil || !strings.Contains(err.Error(), m.refused) {
		t.Errorf("error %v, want one with %s", err, m.refused)
	}
}

// filledProxy is a proxy whose upstream is known: the log has late lines of other tests'.
type filledProxy struct {
	*proxy
	upstream string // host and port
}

// startFilled runs a site with the peers that its body names.
func startFilled(t *testing.T, body string) filledProxy {
	t.Helper()
	body = filled(t, body)
	p := start(t, site{body: body, self: "{self}"})
	body = strings.ReplaceAll(body, "{self}", "wss://"+p.addr)
	match := regexp.MustCompile(`watchrtc_proxy.*//(127\.0\.0\.1:\d+)`).FindStringSubmatch(body)
	if match == nil {
		t.Fatalf("no upstream in %s", body)
	}
	return filledProxy{p, match[1]}
}

// wantNoWarning checks that the module warns neither of the routes nor of a request.
func (p filledProxy) wantNoWarning(t *testing.T) {
	t.Helper()
	if warnings := p.logs.warnings(p.upstream); len(warnings) > 0 {
		t.Errorf("the log warns: %s", warnings)
	}
}

// startPlain runs a site without TLS.
func startPlain(t *testing.T) *proxy {
	t.Helper()
	return start(t, site{body: filled(t, "watchrtc_proxy /websocket {relay} {tls}"), plain: true})
}

// filled puts peers in the place of their names.
func filled(t *testing.T, body string) string {
	t.Helper()
	names := map[string]func() string{
		"{relay}": func() string { return https(sdkRelay(t)) },
		"{plain}": func() string { return "ws://" + strings.TrimPrefix(newRelay(t, nil).URL, "https://") },
		"{app}":   func() string { return application(t) },
		"{secured-app}": func() string {
			return "wss://" + strings.TrimPrefix(application(t), "http://")
		},
		"{second}": func() string { return newRelay(t, http.NotFound).URL },
		"{site}":   func() string { return singlePage(t) },
		"{tls}":    func() string { return "{\n{trust}\n}" },
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if strings.Contains(body, name) {
			body = strings.ReplaceAll(body, name, names[name]())
		}
	}
	return strings.ReplaceAll(body, "{trust}", "drain_window 0\n"+transport(""))
}

// application is a server that knows nothing of WebSockets.
func application(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "the API") }))
	t.Cleanup(server.Close)
	return server.URL
}

// TestTroubleshootingPage: docs/troubleshooting.md has each mistake as a row, and no row
// that no test makes.
func TestTroubleshootingPage(t *testing.T) {
	page, err := os.ReadFile("../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	for line := range bytes.Lines(page) {
		cells := strings.Split(string(line), " | ")
		if len(cells) == 3 && !strings.Contains(cells[1], "---") && cells[1] != "cause" {
			listed[cells[1]] = true
		}
	}
	for _, m := range mistakes {
		if !listed[m.name] {
			t.Errorf("no row has the cause %q", m.name)
		}
	}
	for cause := range listed {
		if !slices.ContainsFunc(mistakes, func(m mistake) bool { return m.name == cause }) {
			t.Errorf("no test makes the mistake %q", cause)
		}
	}
}

// TestBesideOtherDirectives has the plain form on a site with others, before and after
// them.
func TestBesideOtherDirectives(t *testing.T) {
	app := application(t)
	for name, directives := range map[string][]string{
		"file_server":               {"root {site}", "file_server"},
		"try_files":                 {"root {site}", "try_files {path} /index.html", "file_server"},
		"reverse_proxy":             {"reverse_proxy " + app},
		"handle":                    {"handle /api/* {\nreverse_proxy " + app + "\n}", "handle {\nroot {site}\ntry_files {path} /index.html\nfile_server\n}"},
		"handle_path":               {"handle_path /api/* {\nreverse_proxy " + app + "\n}", "handle {\nrespond app\n}"},
		"route":                     {"route {\nrewrite * /index.html\nrespond app\n}"},
		"rewrite":                   {"rewrite * /index.html", "respond app"},
		"uri":                       {"uri strip_prefix /websocket", "respond app"},
		"basic_auth":                {login, "respond app"},
		"forward_auth":              {"forward_auth " + app + " {\nuri /login\n}", "respond app"},
		"encode":                    {"encode gzip", "respond app"},
		"header":                    {"header X-Frame-Options DENY", "respond app"},
		"request_header":            {"request_header -Upgrade", "respond app"},
		"templates and php_fastcgi": {"templates", "php_fastcgi 127.0.0.1:1"},
		"handle_errors":             {"handle_errors {\nrewrite * /index.html\nrespond sorry\n}", "respond app"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, at := range []int{0, len(directives)} {
				lines := slices.Insert(slices.Clone(directives), at, "watchrtc_proxy /websocket {relay} {tls}")
				p := startFilled(t, strings.Join(lines, "\n"))
				if webSocket, trace := p.asSDK(t, "/websocket"); webSocket != http.StatusSwitchingProtocols || trace != http.StatusOK {
					t.Errorf("with the directive in place %d the WebSocket gets %d and /trace %d", at, webSocket, trace)
				}
				p.wantNoWarning(t)
				p.stop(t)
			}
		})
	}
}

// TestNotMistakes: what looks like a mistake and is none works, without a warning.
func TestNotMistakes(t *testing.T) {
	for name, body := range map[string]string{
		"handle around a mount":         "handle /websocket* {\nwatchrtc_proxy /websocket {relay} {tls}\n}",
		"handle_path without a mount":   "handle_path /websocket* {\nwatchrtc_proxy {relay} {tls}\n}",
		"handle_path with another":      "handle_path /web* {\nwatchrtc_proxy /socket {relay} {tls}\n}\nhandle /other* {\nwatchrtc_proxy /other staging\n}",
		"strip_prefix in a route":       "route /websocket* {\nuri strip_prefix /websocket\nwatchrtc_proxy {relay} {tls}\n}",
		"another rewrite in a route":    "route /websocket* {\nuri path_regexp ^/websocket/* /\nwatchrtc_proxy {relay} {tls}\n}",
		"a matcher besides the mount":   "@here remote_ip 127.0.0.1\nhandle @here {\nwatchrtc_proxy /websocket {relay} {tls}\n}\nwatchrtc_proxy /elsewhere staging",
		"the longer mount first":        "watchrtc_proxy /websocket/eu staging\nwatchrtc_proxy /websocket {relay} {tls}",
		"two mounts":                    "watchrtc_proxy /other staging\nwatchrtc_proxy /websocket {relay} {tls}",
		"a redirect of something else":  "redir /old /new\nwatchrtc_proxy /websocket {relay} {tls}",
		"a route with something before": "route {\nreverse_proxy /api/* 127.0.0.1:1\nwatchrtc_proxy /websocket {relay} {tls}\n}",
		"another login of the site":     "@admin path /admin/*\n" + strings.Replace(login, "basic_auth", "basic_auth @admin", 1) + "\nwatchrtc_proxy /websocket {relay} {tls}",
		"in handle_errors":              "error 500\nhandle_errors {\nwatchrtc_proxy /websocket {relay} {tls}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			p := startFilled(t, body)
			if webSocket, trace := p.asSDK(t, "/websocket"); webSocket != http.StatusSwitchingProtocols || trace != http.StatusOK {
				t.Errorf("the WebSocket gets %d and /trace %d", webSocket, trace)
			}
			p.wantNoWarning(t)
			if lines, _ := p.logs.matching("a login of this site"); len(lines) > 0 {
				t.Errorf("the log has %s", lines)
			}
		})
	}
	t.Run("the SDK's endpoints matched, at the root", func(t *testing.T) {
		p := startFilled(t, "@sdk path / /trace /error /get-qualityrtc-config\nwatchrtc_proxy @sdk {relay} {tls}\nrespond app")
		if webSocket, trace := p.asSDK(t, "/"); webSocket != http.StatusSwitchingProtocols || trace != http.StatusOK {
			t.Errorf("the WebSocket gets %d and /trace %d", webSocket, trace)
		}
		p.wantNoWarning(t)
	})
}

// TestHandWrittenMatcher: JSON in which the path matcher is narrower than path_prefix is
// warned of as a Caddyfile is.
func TestHandWrittenMatcher(t *testing.T) {
	s := site{body: filled(t, "watchrtc_proxy /websocket {relay} {tls}")}
	port := freePort(t)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(s.caddyfile(port)), nil)
	if err != nil {
		t.Fatal(err)
	}
	narrow := bytes.Replace(adapted, []byte(`"path":["/websocket","/websocket/*"]`), []byte(`"path":["/websocket"]`), 1)
	if bytes.Equal(narrow, adapted) {
		t.Fatalf("no path matcher in %s", adapted)
	}
	p := &proxy{network: "tcp", addr: fmt.Sprintf("127.0.0.1:%d", port), port: port, logs: newLogs()}
	if err := caddy.Load(narrow, true); err != nil {
		t.Fatal(err)
	}
	defer p.stop(t)
	p.logs.await(t, `"level":"warn"`, quoted(`takes the WebSocket at "/websocket", and not "/websocket/trace"`))
}

// TestSoundRoutes loads routes written by hand that are like mistakes and are none.
func TestSoundRoutes(t *testing.T) {
	const strip = `"handle": [{"handler": "rewrite", "strip_path_prefix": "/a"}]`
	mount := func(path string) string { return handlerJSON("wss://127.0.0.1:1", `"path_prefix": "`+path+`"`) }
	a, b, c := mount("/a"), mount("/b"), mount("/c")
	for name, routes := range map[string]string{
		"three mounts in a route":      `{"handle": [` + a + "," + b + "," + c + `]}`,
		"one endpoint to another":      `{"match": [{"path": ["/a/trace"]}], "handle": [` + a + `]}, {"handle": [` + a + `]}`,
		"all but one to another":       `{"match": [{"path": ["/a", "/a/trace", "/a/error"]}], "handle": [` + a + `]}, {"handle": [` + a + `]}`,
		"the same mount after rewrite": `{"handle": [` + a + `]}, {"handle": [{"handler": "rewrite", "uri": "/a{http.request.uri.path}"}]}, {"handle": [` + a + `]}`,
		"cut off some requests":        `{"match": [{"header": {"X-Old": ["1"]}}], ` + strip + `}, {"handle": [` + a + `]}`,
		"cut off in the same group":    `{"group": "g", "match": [{"path": ["/a/*"]}], ` + strip + `}, {"group": "g", "handle": [` + a + `]}`,
		"cut off and terminal":         `{"terminal": true, "match": [{"path": ["/a/*"]}], ` + strip + `}, {"handle": [` + a + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			config := fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"http": {"servers": {"s": {
				"listen": ["127.0.0.1:%d"], "automatic_https": {"disable": true}, "routes": [%s]}}}}}`, freePort(t), routes)
			if err := caddy.Validate(configOf(t, config)); err != nil {
				t.Error(err)
			}
		})
	}
}

func configOf(t *testing.T, text string) *caddy.Config {
	t.Helper()
	var config caddy.Config
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	return &config
}

// TestOrderOption: the global option puts a login in front again.
func TestOrderOption(t *testing.T) {
	s := site{global: "order watchrtc_proxy after forward_auth", body: filled(t, login+"\nwatchrtc_proxy /websocket {relay} {tls}")}
	if webSocket, trace := start(t, s).asSDK(t, "/websocket"); webSocket != http.StatusUnauthorized || trace != http.StatusUnauthorized {
		t.Errorf("the WebSocket gets %d and /trace %d, want 401", webSocket, trace)
	}
}

// TestLoginInFront: with route the site's login is in front of the mount, too.
func TestLoginInFront(t *testing.T) {
	p := startFilled(t, "route {\n"+login+"\nwatchrtc_proxy /websocket {relay} {tls}\nrespond app\n}")
	if webSocket, trace := p.asSDK(t, "/websocket"); webSocket != http.StatusUnauthorized || trace != http.StatusUnauthorized {
		t.Errorf("the WebSocket gets %d and /trace %d, want 401", webSocket, trace)
	}
}

// TestHintsAreSampled: many requests that run into the same mistake cost few lines.
func TestHintsAreSampled(t *testing.T) {
	p := startFilled(t, "watchrtc_proxy /websocket {relay}/nothing {tls}")
	for range 20 {
		p.asSDK(t, "/websocket")
	}
	const slow = 3 // one line, and another every 10 s
	if lines, _ := p.logs.matching("probably a mistake", p.upstream); len(lines) < 1 || len(lines) > slow {
		t.Errorf("%d lines: %s", len(lines), lines)
	}
}
