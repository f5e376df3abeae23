package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

func TestParseURL(t *testing.T) {
	for _, good := range []string{
		"wss://proxy.example.com/websocket", "WSS://proxy.example.com", "ws://127.0.0.1:8080/", "wss://[2001:db8::1]:8443/a%2Fb",
	} {
		if u, err := ParseURL(good); err != nil || u.Host == "" {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"wss://h.example/w?apiKey=secret":     "--api-key",
		"wss://h.example/w?":                  "--api-key",
		"wss://h.example/w#secret":            "fragment",
		"wss://user:secret@h.example/w":       "user name",
		"https://h.example/websocket":         `did you mean "wss://h.example/websocket"?`,
		"http://h.example":                    `did you mean "ws://h.example"?`,
		"h.example/websocket":                 `did you mean "wss://h.example/websocket"?`,
		"h.example:8443/websocket":            `did you mean "wss://h.example:8443/websocket"?`,
		"ftp://h.example":                     "scheme",
		"production":                          "scheme",
		"wss:///websocket":                    "no host",
		"wss://a b/":                          "not a URL",
		"wss://h.example:0/":                  "port",
		"wss://h.example:70000/":              "port",
		"wss://a,b.example/":                  "host name",
		"":                                    "scheme",
		"h.example?apiKey=secret":             "--api-key",
		"wss://h.example/%zz?apiKey=secret":   "not a URL",
		"wss://user:secret@h.example/%zz?a=b": "not a URL",
	} {
		_, err := ParseURL(bad)
		switch {
		case err == nil:
			t.Errorf("%q is accepted", bad)
		case !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret"):
			t.Errorf("%q: %v; want %q", bad, err, want)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	for origin, good := range map[string]bool{
		"https://app.example.com": true, "http://localhost:3000": true, "https://[::1]:1": true,
		"https://app.example.com/": false, "app.example.com": false, "null": false, "wss://a.example": false, "https://": false, "https://a?k=secret": false,
	} {
		_, err := ParseOrigin(origin)
		if (err == nil) != good || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", origin, err)
		}
	}
}

// TestStatuses: what a response in place of a 101 means.
func TestStatuses(t *testing.T) {
	relayed := strings.Join(ofRelay, "\r\n") + "\r\n"
	own := "Access-Control-Allow-Origin: " + testOrigin + "\r\n"
	for _, test := range []struct{ status, fields, want string }{
		{"301 Moved", "Location: https://other.example/x?apiKey=k\r\n", "redirects to another host: status 301 to https://other.example/x"},
		{"307 T", "Location: /websocket/?apiKey=k\r\n", "redirects to another path: status 307 to http://proxy.example.com/websocket/"},
		{"308 T", "Location: https://proxy.example.com/websocket\r\n", "redirects to https"},
		{"302 T", "Location: %\r\n", "the server redirects: status 302"},
		{"302 T", "Location: javascript:alert(1)\r\n", "the server redirects: status 302"},
		{"302 T", "Location: https://" + strings.Repeat("x", 5000) + "/\r\n", "…"},
		{"400 B", "", "handshake does not arrive whole: status 400 from the proxy, or"},
		{"400 B", own, "handshake does not arrive whole: status 400 from watchrtc_proxy"},
		{"401 U", "", "a login covers the mount"},
		{"401 U", relayed, "upgrade is stripped"}, // the same for each request
		{"403 F", own, "refuses this client: status 403 from watchrtc_proxy"},
		{"404 N", "", "plain web server: status 404"},
		{"426 U", "", "handshake does not arrive whole"},
		{"429 T", own, "too many requests"},
		{"500 I", "", "plain web server: status 500"},
		{"500 I", relayed, "the relay has an error: status 500 from the relay"},
		{"502 B", own, "the relay is down, or the proxy does not reach it: status 502 from watchrtc_proxy"},
		{"502 B", "", "status 502 from the proxy, or from something in front"},
		{"503 S", own, "takes no requests now"},
		{"504 G", own, "the relay is down"},
		{"508 L", own, "leads back"},
	} {
		t.Run(test.status+" "+test.want, func(t *testing.T) {
			t.Parallel()
			report := checkPlain(t, responding("HTTP/1.1 "+test.status+"\r\n"+test.fields+"Content-Length: 0\r\n\r\n"), nil)
			wantStep(t, report, StepWebSocket, Failed, test.want)
			wantStep(t, report, StepGreeting, NotTested, "needs websocket")
		})
	}
}

// TestRelayRefuses: a relay that treats a handshake otherwise than the same request
// without one has got it whole.
func TestRelayRefuses(t *testing.T) {
	report := checkPlain(t, func(c *wstest.Conn) {
		request, err := c.ReadRequest()
		if err != nil {
			return
		}
		status := "426 Upgrade Required"
		if request.Header.Get("Upgrade") != "" {
			status = "401 Unauthorized"
		}
		c.WriteResponse(status, "", ofRelay...)
	}, nil)
	wantStep(t, report, StepWebSocket, Failed, "the relay refuses the handshake: status 401 from the relay")
}

// TestMounts: the mount is found above the URL's path, too.
func TestMounts(t *testing.T) {
	for path, mounts := range map[string][]string{
		"":                 {"/websocket"},
		"/":                {"/websocket"},
		"/other":           {"/websocket", "/"},
		"/websocket/extra": {"/websocket"},
		"/a%2Fb/extra":     {"/a%2Fb", "/"},
		"/1/2/3/4/5":       {"/1/2/3", "/"},
	} {
		for _, mount := range mounts {
			report := checkPlain(t, func(c *wstest.Conn) {
				request, err := c.ReadRequest()
				switch {
				case err != nil:
				case request.URL.EscapedPath() == mount:
					accept(c, request.Header.Get("Sec-Websocket-Key"), goodGreeting)
				default:
					c.WriteResponse("404 Not Found", "")
				}
			}, func(o *Options) {
				o.URL = mustParse(t, "ws://proxy.example.com"+path)
			})
			wantStep(t, report, StepWebSocket, Failed, "a WebSocket at "+mount)
			wantStep(t, report, StepTrace, NotTested, "needs websocket")
		}
	}
}

// TestWithoutKeys: what needs a key or an origin says so, and all else is tested.
func TestWithoutKeys(t *testing.T) {
	for name, test := range map[string]struct {
		edit     func(*Options)
		untested []string
	}{
		"all":           {func(*Options) {}, nil},
		"nothing":       {func(o *Options) { o.APIKey, o.Origin = "", "" }, []string{StepGreeting, StepPreflight, StepConfig}},
		"a token":       {func(o *Options) { o.APIKey, o.Token = "", testKey }, []string{StepConfig}},
		"key alone":     {func(o *Options) { o.Origin = "" }, []string{StepPreflight}},
		"origin alone":  {func(o *Options) { o.APIKey = "" }, []string{StepGreeting, StepConfig}},
		"an IP address": {func(o *Options) { o.URL.Host = "192.0.2.1" }, []string{StepResolve}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := checkPlain(t, serveRelay, test.edit)
			for _, step := range report.Steps {
				want := OK
				if step.Name == StepTLS || slices.Contains(test.untested, step.Name) {
					want = NotTested
				}
				wantStep(t, report, step.Name, want, "")
				if want == NotTested && (step.Detail == "" || step.Took != 0 || step.Hint == "" && step.Name != StepResolve) {
					t.Errorf("%+v", step)
				}
			}
			if !report.OK() || !strings.HasPrefix(report.Verdict(), "well as far as tested; not tested: ") {
				t.Errorf("the verdict is %q", report.Verdict())
			}
		})
	}
}

func TestResolve(t *testing.T) {
	many := make([]netip.Addr, maxAddresses+2)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
	}
	for name, test := range map[string]struct {
		addrs  []netip.Addr
		err    error
		status Status
		detail string
	}{
		"not found": {nil, &net.DNSError{Err: "no such host", IsNotFound: true}, Failed, "the name is not found"},
		"no answer": {nil, nil, Failed, "the name is not found"},
		"a timeout": {nil, &net.DNSError{Err: "i/o timeout", IsTimeout: true}, Failed, "do not respond"},
		"an error":  {nil, errors.New("\x1b[0m"), Failed, "cannot be resolved"},
		"many":      {many, nil, OK, "and 2 more, which are not tried"},
	} {
		t.Run(name, func(t *testing.T) {
			report := checkPlain(t, serveRelay, func(o *Options) {
				o.Lookup = func(context.Context, string) ([]netip.Addr, error) { return test.addrs, test.err }
			})
			wantStep(t, report, StepResolve, test.status, test.detail)
			if test.status == Failed {
				wantStep(t, report, StepConnect, NotTested, "needs resolve")
			} else if n := len(report.Steps); n != maxAddresses+7 {
				t.Errorf("%d steps", n)
			}
		})
	}
}

// TestConnect: each address is tried, the first that works serves, and one that does not
// work is a failure all the same.
func TestConnect(t *testing.T) {
	relay := wstest.NewRelay(t, nil, serveRelay)
	errs := map[string]error{
		"192.0.2.1:80":     syscall.ECONNREFUSED,
		"192.0.2.2:80":     syscall.EHOSTUNREACH,
		"192.0.2.3:80":     context.DeadlineExceeded,
		"192.0.2.4:80":     errors.New("\x1b[0m"),
		"[2001:db8::1]:80": syscall.ENETUNREACH,
		"192.0.2.5:80":     nil,
		"192.0.2.6:80":     nil,
	}
	options := optionsFor(t, "ws://proxy.example.com/websocket", relay.Addr)
	options.Lookup = func(context.Context, string) (addrs []netip.Addr, err error) {
		for addr := range errs {
			addrs = append(addrs, netip.MustParseAddrPort(addr).Addr())
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		return addrs, nil
	}
	dial := options.Dial
	options.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := errs[addr]; err != nil {
			return nil, &net.OpError{Op: "dial", Err: err}
		}
		return dial(ctx, network, addr)
	}
	report := Run(t.Context(), options)
	var got []string
	for _, step := range report.Steps {
		if step.Name == StepConnect {
			got = append(got, fmt.Sprintf("%s: %s", step.Status, step.Detail))
		}
	}
	want := []string{
		"failed: nothing listens at the address: 192.0.2.1:80 refuses connections",
		"failed: there is no route to the address: 192.0.2.2:80",
		"failed: the address does not respond: 192.0.2.3:80",
		"failed: the address cannot be connected to: 192.0.2.4:80",
		"ok: 192.0.2.5:80",
		"ok: 192.0.2.6:80",
		"not tested: [2001:db8::1]:80: this computer has no IPv6",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	wantStep(t, report, StepGreeting, OK, "")
	if report.OK() || report.Verdict() != "nothing listens at the address" {
		t.Errorf("the verdict is %q", report.Verdict())
	}
}

func TestCertificates(t *testing.T) {
	authority := wstest.NewAuthority("Example Authority")
	const host, day = "proxy.example.com", 24 * time.Hour
	issue := func(from, to time.Duration, hosts ...string) *tls.Config {
		return authority.IssueWith(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to+time.Minute)
		}, hosts...).ServerConfig("http/1.1")
	}
	stranger := wstest.NewAuthority("Stranger\x1b").Issue(host).ServerConfig("http/1.1")
	at := func(skew time.Duration) func(*Options) {
		return func(o *Options) { o.Now = func() time.Time { return time.Now().Add(skew) } }
	}
	insecure := func(o *Options) { o.Insecure = true }
	old := issue(-day, 90*day, host)
	old.MaxVersion = tls.VersionTLS10
	old.MinVersion = tls.VersionTLS10
	for name, test := range map[string]struct {
		config *tls.Config
		edit   func(*Options)
		status Status
		detail string
	}{
		"good":           {issue(-day, 90*day, host), nil, OK, "TLS 1.3; certificate of proxy.example.com by Example Authority, 90 days left"},
		"near its end":   {issue(-88*day, 2*day, host), nil, OK, "2 days left"},
		"expired":        {issue(-9*day, -5*time.Hour, host), nil, Failed, "the certificate has expired: it expired 4 hours ago"},
		"not valid yet":  {issue(2*day, 9*day, host), nil, Failed, "the certificate is not valid yet: it becomes valid in 1 day"},
		"another name":   {issue(-day, 90*day, "a.example", "b.example", "c.example", "192.0.2.1"), nil, Failed, "it is for a.example, b.example, c.example and 1 more"},
		"no trust":       {stranger, nil, Failed, "issuer is not trusted: proxy.example.com, by Stranger\uFFFD"},
		"insecure":       {stranger, insecure, NotTested, "TLS 1.3; --insecure: the certificate's issuer is not trusted"},
		"insecure, good": {issue(-day, 90*day, host), insecure, OK, "90 days left"},
		"TLS 1.0":        {old, nil, Failed, "the server refuses TLS: protocol version not supported"},
		"a clock ahead":  {issue(-day, 9*day, host), at(10 * day), Failed, "the certificate has expired"}, // the server names no time
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := checkTLS(t, authority, test.config, test.edit)
			wantStep(t, report, StepTLS, test.status, test.detail)
			next := OK
			if test.status == Failed {
				next = NotTested
			}
			for _, step := range []string{StepWebSocket, StepGreeting, StepTrace, StepPreflight, StepConfig} {
				wantStep(t, report, step, next, "")
			}
			if renew := strings.Contains(find(t, report, StepTLS).Hint, "renewed"); renew != (name == "near its end") && test.status == OK {
				t.Errorf("hint: %s", find(t, report, StepTLS).Hint)
			}
		})
	}
}

// TestNoTLS: a server that does not speak it says what it does speak.
func TestNoTLS(t *testing.T) {
	for name, test := range map[string]struct {
		serve  func(*wstest.Conn)
		edit   func(*Options)
		detail string
	}{
		"plain HTTP": {func(c *wstest.Conn) { c.R.ReadByte(); c.WriteResponse("400 Bad Request", "") }, nil, "speaks plain HTTP"},
		"SSH":        {func(c *wstest.Conn) { c.WriteText("SSH-2.0-server\r\n"); c.ReadToEnd() }, nil, "does not speak TLS"},
		"the end":    {func(c *wstest.Conn) {}, nil, "TLS breaks off"},
		"nothing":    {func(c *wstest.Conn) { c.R.ReadByte() }, silent, "does not respond to TLS"},
		"an alert":   {func(c *wstest.Conn) { c.R.ReadByte(); c.WriteText("\x15\x03\x03\x00\x02\x02\x50"); c.ReadToEnd() }, nil, "the server refuses TLS: internal error"},
		"endless":    {func(c *wstest.Conn) { forever(c, "\x16\x03\x03\x40\x00") }, nil, "TLS breaks off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			relay := wstest.NewRelay(t, nil, test.serve)
			options := optionsFor(t, "wss://proxy.example.com/websocket", relay.Addr)
			if test.edit != nil {
				test.edit(&options)
			}
			report := Run(t.Context(), options)
			wantStep(t, report, StepTLS, Failed, test.detail)
			wantStep(t, report, StepWebSocket, NotTested, "needs tls")
		})
	}
}

// TestOnlyHTTP2: a server that refuses TLS for HTTP/1.1, as Go's does not.
func TestOnlyHTTP2(t *testing.T) {
	config := wstest.NewAuthority("Example Authority").Issue("proxy.example.com").ServerConfig("h2")
	relay := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
		head, err := c.R.Peek(5)
		if err != nil {
			return
		}
		hello, err := c.R.Peek(5 + int(head[3])<<8 + int(head[4]))
		if err != nil {
			return
		}
		if strings.Contains(string(hello), "http/1.1") {
			c.WriteText("\x15\x03\x03\x00\x02\x02\x78") // no_application_protocol
			return
		}
		tls.Server(wstest.Rest{Conn: c}, config).Handshake()
	})
	report := Run(t.Context(), optionsFor(t, "wss://proxy.example.com/websocket", relay.Addr))
	wantStep(t, report, StepTLS, Failed, "HTTP/2 only: it takes TLS for HTTP/2 alone")
}

// TestTimeout: a server that says nothing is left.
func TestTimeout(t *testing.T) {
	report := checkPlain(t, func(c *wstest.Conn) { c.ReadToEnd() }, func(o *Options) { o.Timeout = time.Millisecond })
	if report.OK() {
		t.Error("all is well")
	}
}

// TestCanceled: a check that is interrupted ends.
func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	relay := wstest.NewRelay(t, nil, func(c *wstest.Conn) {
		c.ReadRequest()
		cancel()
		c.ReadToEnd()
	})
	if Run(ctx, optionsFor(t, "ws://proxy.example.com/websocket", relay.Addr)).OK() {
		t.Error("all is well")
	}
}

func TestPrinter(t *testing.T) {
	report := Report{URL: "wss://h.example", Steps: []Step{
		{Name: StepResolve, Status: OK, Took: 1234 * time.Microsecond, Detail: "203.0.113.7"},
		{Name: StepConnect, Status: Failed, Took: 2 * time.Second, Detail: "it is: so", Hint: "do", mistake: "it is"},
		{Name: StepTLS, Status: NotTested, Detail: "needs connect", Hint: "do"},
	}}
	write := func(p Printer) string {
		var out strings.Builder
		p.W = &out
		for _, step := range report.Steps {
			p.Step(Step{Name: step.Name})
			p.Step(step)
		}
		p.End(report)
		return out.String()
	}
	plain := "resolve     ok             1.2 ms  203.0.113.7\n" +
		"connect     failed        2000 ms  it is: so\n" +
		"tls         not tested             needs connect\n" +
		"\nfailed      it is\n  - do\n"
	if got := write(Printer{}); got != plain {
		t.Errorf("got\n%swant\n%s", got, plain)
	}
	live := write(Printer{Colour: true, Progress: true})
	for _, want := range []string{"resolve     …\r\x1b[K", "\x1b[32mok        \x1b[0m", "\x1b[31mfailed    \x1b[0m", "\x1b[33mnot tested\x1b[0m"} {
		if !strings.Contains(live, want) {
			t.Errorf("%q is not in %q", want, live)
		}
	}
	if got := write(Printer{Progress: true}); strings.Contains(got, "\x1b[3") {
		t.Errorf("colours in %q", got)
	}
}
