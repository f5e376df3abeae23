package check

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

const (
	testKey    = "very public/key"
	testOrigin = "https://app.example.com"
)

// optionsFor checks a server by the name proxy.example.com, within a time that is long
// enough for what comes at once.
func optionsFor(t *testing.T, raw, addr string) Options {
	t.Helper()
	return Options{
		URL: mustParse(t, raw), APIKey: testKey, Origin: testOrigin, Timeout: wstest.Patience,
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("203.0.113.7")}, nil
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := ParseURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// checkPlain checks a server without TLS.
func checkPlain(t *testing.T, handle func(*wstest.Conn), edit func(*Options)) Report {
	t.Helper()
	relay := wstest.NewRelay(t, nil, handle)
	options := optionsFor(t, "ws://proxy.example.com/websocket", relay.Addr)
	if edit != nil {
		edit(&options)
	}
	return Run(t.Context(), options)
}

// checkTLS checks a server with TLS.
func checkTLS(t *testing.T, authority *wstest.Authority, config *tls.Config, edit func(*Options)) Report {
	t.Helper()
	relay := wstest.NewRelay(t, config, serveRelay)
	options := optionsFor(t, "wss://proxy.example.com/websocket", relay.Addr)
	options.Roots = authority.Pool
	if edit != nil {
		edit(&options)
	}
	return Run(t.Context(), options)
}

// silent makes of a server that ends the connection one that says nothing more until
// the time is over, without the time.
func silent(o *Options) {
	dial := o.Dial
	o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return silentConn{conn}, err
	}
}

type silentConn struct{ net.Conn }

func (c silentConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// ofRelay are the fields of each response that the proxy has relayed.
var ofRelay = []string{"Content-Security-Policy: sandbox; default-src 'none'", "Access-Control-Allow-Origin: *"}

const goodGreeting = `{"connectionId":"c","projectId":"p","interval":8000}`

// serveRelay is a proxy where all is well.
func serveRelay(c *wstest.Conn) {
	c.SetDeadline(time.Now().Add(wstest.Patience))
	request, err := c.ReadRequest()
	switch {
	case err != nil:
	case request.Header.Get("Upgrade") != "":
		accept(c, request.Header.Get("Sec-Websocket-Key"), goodGreeting)
	case request.Method == "OPTIONS":
		c.WriteResponse("204 No Content", "", append(ofRelay, "Access-Control-Allow-Headers: X-Other, content-type")...)
	default:
		c.WriteResponse("200 OK", "{}", ofRelay...)
	}
}

// accept accepts a handshake and sends greeting.
func accept(c *wstest.Conn, key, greeting string) {
	c.WriteResponseHead("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Accept: "+wstest.Accept(key), "Sec-WebSocket-Protocol: 2.0")
	c.Send(wstest.Message(greeting))
	c.ReadToEnd()
}

// find returns a step; the first, where there are several.
func find(t *testing.T, report Report, name string) Step {
	t.Helper()
	for _, step := range report.Steps {
		if step.Name == name {
			return step
		}
	}
	t.Fatalf("no step %s in %+v", name, report)
	return Step{}
}

// wantStep checks a step's status and a part of its detail.
func wantStep(t *testing.T, report Report, name string, status Status, detail string) {
	t.Helper()
	step := find(t, report, name)
	if step.Status != status || !strings.Contains(step.Detail, detail) {
		t.Errorf("%s is %q: %s; want %q: %s", name, step.Status, step.Detail, status, detail)
	}
	if step.Status == Failed && step.Hint == "" {
		t.Errorf("%s fails without a hint: %s", name, step.Detail)
	}
	wantClean(t, report)
}

// wantClean: nothing printed holds a key, a query or a control character.
func wantClean(t *testing.T, report Report) {
	t.Helper()
	for _, step := range report.Steps {
		text := step.Detail + step.Hint
		for _, bad := range []string{testKey, "very+public%2Fkey", "very%20public%2Fkey", "apiKey", "timestamp", "\x1b", "\n"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s holds %q: %q", step.Name, bad, text)
			}
		}
		if len(text) > 1000 {
			t.Errorf("%s has %d bytes of text", step.Name, len(text))
		}
	}
}
