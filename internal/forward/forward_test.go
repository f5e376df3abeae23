package forward

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestTablesInDocs holds the tables of the documentation to those of the code.
func TestTablesInDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/headers.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, table := range map[string][][]string{
		"| never forwarded |":   neverToRelay,
		"| never passed back |": neverToClient,
	} {
		_, rows, ok := strings.Cut(string(page), heading)
		if !ok {
			t.Fatalf("no table %q", heading)
		}
		rows, _, _ = strings.Cut(rows, "\n\n")
		var documented []string
		for _, row := range strings.Split(rows, "\n")[2:] {
			for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(row, "|")[1], -1) {
				documented = append(documented, name[1])
			}
		}
		coded := slices.Concat(table...)
		slices.Sort(documented)
		slices.Sort(coded)
		if !slices.Equal(documented, coded) {
			t.Errorf("%s\ndocs: %q\ncode: %q", heading, documented, coded)
		}
	}
}

func TestFieldSet(t *testing.T) {
	set := newFieldSet([]string{"X-Real-IP", "CF-*", "X-Client-Cert*"})
	for field, want := range map[string]bool{
		"X-Real-Ip": true, "x-real-ip": true, "X_real_ip": true, "X-Real_Ip": true, "X-Real-Ip2": false, "X-Real": false,
		"Cf-": true, "Cf_ray": true, "CF-Connecting-IP": true, "Cf": false, "Cfx": false, "X-Cf-Ray": false,
		"X-Client-Cert": true, "X-Client-Certificate": true, "X_client_cert_chain": true,
		"": false, ":protocol": false,
		"Cf-" + strings.Repeat("x", 1000):       true,
		"X-Real-Ip" + strings.Repeat("x", 1000): false,
	} {
		if got := set.has(field); got != want {
			t.Errorf("%q: %v", field, got)
		}
	}
	for _, name := range slices.Concat(slices.Concat(neverToRelay...), slices.Concat(neverToClient...), hopByHop, setForRelay, setForClient) {
		if len(name) >= maxFieldName {
			t.Errorf("%q is longer than has looks", name)
		}
	}
}

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":            "192.0.2.1",
		"192.0.2.1:443":        "192.0.2.1",
		"[2001:db8::1]:443":    "2001:db8::1",
		"[2001:db8::1]":        "2001:db8::1",
		"2001:db8::1":          "2001:db8::1",
		"[fe80::1%eth0]:443":   "fe80::1",
		"fe80::1%eth0":         "fe80::1",
		"[::ffff:192.0.2.1]:1": "192.0.2.1",
		"@":                    "invalid IP",
		"":                     "invalid IP",
		"unknown":              "invalid IP",
		"relay.example:443":    "invalid IP",
	} {
		if got := parseAddr(in).String(); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

// request is one that a peer at remote has sent to local.
func request(remote string, local net.Addr, fields ...string) *http.Request {
	r := httptest.NewRequest("POST", "https://proxy.example/trace", nil)
	ctx := context.WithValue(r.Context(), http.LocalAddrContextKey, local)
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, make(map[string]any))
	r = r.WithContext(ctx)
	r.RemoteAddr = remote
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		r.Header.Add(name, value)
	}
	return r
}

var (
	tcpAddr  = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}
	unixAddr = &net.UnixAddr{Net: "unix", Name: "/run/caddy.sock"}
)

func newRules(t testing.TB, trusted []string, mask bool, server *caddyhttp.Server) *Rules {
	rules, err := New(trusted, mask, server)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// TestPeerWithoutAddress shows that only a unix socket's peer is trusted without an
// address, and what is known of it.
func TestPeerWithoutAddress(t *testing.T) {
	const client = "203.0.113.1"
	for _, test := range []struct {
		remote  string
		local   net.Addr
		trusted []string
		server  bool // the server trusts it
		want    string
	}{
		{remote: "@", local: unixAddr, want: client},
		{remote: "", local: unixAddr, want: client},
		{remote: "/run/lb.sock", local: unixAddr, want: client},
		{remote: "192.0.2.1:80", local: unixAddr, want: client}, // a path
		{remote: "@", local: unixAddr, trusted: []string{"127.0.0.1"}},
		{remote: "@", local: unixAddr, trusted: []string{"127.0.0.1"}, server: true, want: client},
		{remote: "", local: tcpAddr},
		{remote: "@", local: tcpAddr},
		{remote: "unknown", local: tcpAddr},
		{remote: "@", local: nil},
		{remote: "", local: tcpAddr, trusted: []string{"0.0.0.0/0", "::/0"}},
		{remote: "", local: tcpAddr, trusted: []string{"127.0.0.1"}, server: true},
	} {
		r := request(test.remote, test.local, "X-Forwarded-For: "+client, "X-Forwarded-Host: front.example", "Forwarded: for="+client)
		caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, test.server)
		rules := newRules(t, test.trusted, false, nil)
		header := rules.RequestHeader(r)
		if got := header.Get("X-Forwarded-For"); got != test.want {
			t.Errorf("%+v: X-Forwarded-For %q", test, got)
		}
		if got := header.Get("Forwarded"); (got != "") != (test.want != "") {
			t.Errorf("%+v: Forwarded %q", test, got)
		}
		if got := rules.ClientIP(r); got != test.want {
			t.Errorf("%+v: client %q", test, got)
		}
		wantAddr := netip.IPv4Unspecified()
		if test.want != "" {
			wantAddr = netip.MustParseAddr(test.want)
		}
		if got := rules.ClientAddrPort(r); got != netip.AddrPortFrom(wantAddr, 0) {
			t.Errorf("%+v: PROXY protocol %v", test, got)
		}
	}
}

// TestClientAddrPort shows what a PROXY protocol header says of the client.
func TestClientAddrPort(t *testing.T) {
	for _, test := range []struct {
		remote, chain string
		mask          bool
		want          string
	}{
		{"198.51.100.7:4000", "1.2.3.4", false, "198.51.100.7:4000"},
		{"198.51.100.7:4000", "1.2.3.4", true, "198.51.100.0:0"},
		{"10.0.0.5:4000", "203.0.113.7", false, "203.0.113.7:0"},
		{"10.0.0.5:4000", "1.2.3.4, 203.0.113.7, 10.0.0.6", false, "203.0.113.7:0"},
		{"10.0.0.5:4000", "2001:db8:1:2::3", true, "[2001:db8:1::]:0"},
		{"10.0.0.5:4000", "", false, "10.0.0.5:4000"},
		{"[fe80::1%eth0]:4000", "", false, "[fe80::1]:4000"},
		{"[::ffff:198.51.100.7]:4000", "", false, "198.51.100.7:4000"},
	} {
		rules := newRules(t, nil, test.mask, nil)
		if got := rules.ClientAddrPort(request(test.remote, tcpAddr, "X-Forwarded-For: "+test.chain)).String(); got != test.want {
			t.Errorf("%+v: got %s", test, got)
		}
	}
}

// TestReferer cuts what a browser would cut toward another site.
func TestReferer(t *testing.T) {
	for in, want := range map[string]string{
		"https://app.example/room/17?token=secret#x": "https://app.example/",
		"https://user:secret@app.example:8443/room":  "https://app.example:8443/",
		"http://[2001:db8::1]:80/":                   "http://[2001:db8::1]:80/",
		"https://app.example":                        "https://app.example/",
		"/room/17":                                   "",
		"about:client":                               "",
		"https://%zz/":                               "",
		"room":                                       "",
	} {
		got := newRules(t, nil, false, nil).RequestHeader(request("198.51.100.7:1", tcpAddr, "Referer: "+in))["Referer"]
		if strings.Join(got, "|") != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

// TestConnectionNamesAway shows that Connection takes away neither the client's
// address nor the mark of a loop.
func TestConnectionNamesAway(t *testing.T) {
	header := newRules(t, nil, false, nil).RequestHeader(request("10.0.0.5:1", tcpAddr,
		"Connection: X-Forwarded-For, x-forwarded-host, Forwarded, CDN-Loop, X-Hop", "X-Hop: 1",
		"X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: front.example", "Forwarded: for=203.0.113.7", "CDN-Loop: edge"))
	for field, want := range map[string]string{
		"X-Forwarded-For": "203.0.113.7, 10.0.0.5", "X-Forwarded-Host": "front.example", "Forwarded": "for=203.0.113.7", "X-Hop": "",
	} {
		if got := header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if got := header["Cdn-Loop"]; !slices.Equal(got, []string{"edge", loopID}) {
		t.Errorf("CDN-Loop: %q", got)
	}
}

func TestIsLoop(t *testing.T) {
	for line, want := range map[string]bool{
		"":                     false,
		"edge":                 false,
		loopID:                 true,
		"edge, " + loopID:      true,
		loopID + "; v=1, edge": true,
	} {
		r := request("198.51.100.7:1", tcpAddr, "CDN-Loop: other", "CDN-Loop: "+line)
		if got := IsLoop(r); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// TestTrailers shows that what may not cross in a header, or is set here, may not
// cross in a trailer.
func TestTrailers(t *testing.T) {
	rules := newRules(t, nil, false, &caddyhttp.Server{ClientIPHeaders: []string{"x-edge-client"}})
	for _, field := range slices.Concat(slices.Concat(neverToRelay...), hopByHop, setForRelay, []string{"Content-Length", "X_forwarded_for", "X-Edge-Client"}) {
		if field = http.CanonicalHeaderKey(strings.Replace(field, "*", "X", 1)); rules.RequestTrailer(field) {
			t.Errorf("to the relay: %s", field)
		}
	}
	for _, field := range slices.Concat(slices.Concat(neverToClient...), hopByHop, setForClient, []string{"Content-Type"}) {
		if field = http.CanonicalHeaderKey(strings.Replace(field, "*", "X", 1)); ResponseTrailer(field) {
			t.Errorf("to the client: %s", field)
		}
	}
	for _, field := range []string{"X-Checksum", "Server-Timing"} {
		if !rules.RequestTrailer(field) || !ResponseTrailer(field) {
			t.Errorf("%s does not cross", field)
		}
	}
}

func BenchmarkRequestHeader(b *testing.B) {
	rules := newRules(b, nil, false, nil)
	r := request("198.51.100.7:1", tcpAddr,
		"Accept: */*", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en", "Cache-Control: no-cache", "Connection: Upgrade",
		"Cookie: session=1", "Origin: https://app.example", "Pragma: no-cache", "Sec-Fetch-Mode: websocket", "Sec-WebSocket-Extensions: permessage-deflate",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: 2.0", "Sec-WebSocket-Version: 13", "Upgrade: websocket", "User-Agent: browser")
	for b.Loop() {
		rules.RequestHeader(r)
	}
}
