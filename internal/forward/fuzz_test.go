package forward

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// FuzzForwarded has peers say anything of their clients, in any number of lines. What the
// relay is told is the peer's address, behind what a trusted peer has said and nothing
// else; the client is whom the last trusted peer names; and where addresses are masked,
// none leaves whole.
func FuzzForwarded(f *testing.F) {
	server := &caddyhttp.Server{ClientIPHeaders: []string{"X-Edge-Client", "X-Forwarded-For"}}
	plain, masked := newRules(f, nil, false, server), newRules(f, nil, true, server)
	f.Fuzz(func(t *testing.T, remote string, unix, mask bool, chain, named, said string) {
		lines := strings.Split(chain, "\n")
		for _, value := range append(lines, named, said) {
			if !httpguts.ValidHeaderFieldValue(value) {
				return // no server lets it through
			}
		}
		p := peer{remote: remote, rules: plain, lines: lines, named: named, said: said}
		if mask {
			p.rules = masked
		}
		p.local = tcpAddr
		if unix {
			p.local = unixAddr
		}
		p.check(t)
	})
}

// peer is one that says something of its client.
type peer struct {
	remote      string
	local       net.Addr
	rules       *Rules
	lines       []string // of X-Forwarded-For
	named, said string
}

func (p peer) check(t *testing.T) {
	r := request(p.remote, p.local)
	r.Header["Connection"] = []string{"X-Forwarded-For, X-Forwarded-Host"} // which takes nothing away
	r.Header["X-Forwarded-For"] = p.lines
	r.Header["X-Edge-Client"] = []string{p.named}
	for _, field := range []string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip"} {
		r.Header[field] = []string{p.said}
	}
	header := p.rules.RequestHeader(r)
	for field, values := range header {
		if slices.ContainsFunc(values, func(value string) bool { return !httpguts.ValidHeaderFieldValue(value) }) {
			t.Errorf("%s is %q", field, values)
		}
	}
	addr, trusted := peerAddr(r), p.trusted()
	if len(header["X-Forwarded-For"]) > 1 || len(header["X-Real-Ip"])+len(header["X-Edge-Client"]) > 0 {
		t.Errorf("%q", header)
	}
	var elements []string
	if line := header.Get("X-Forwarded-For"); line != "" {
		elements = strings.Split(line, ", ")
	}
	if again := splitChain(elements); !slices.Equal(again, elements) {
		t.Errorf("%q is read as %q", elements, again)
	}
	if addr.IsValid() {
		last := p.masked(addr)
		if len(elements) == 0 || elements[len(elements)-1] != last.String() {
			t.Fatalf("%q does not end in the peer, %v", elements, last)
		}
		elements = elements[:len(elements)-1]
	}
	client := p.rules.Client(r)
	if !trusted {
		if len(elements) > 0 || client != addr || len(header["Forwarded"]) > 0 ||
			header.Get("X-Forwarded-Host") != "proxy.example" || header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%v is not trusted, but %q, client %v", addr, header, client)
		}
		return
	}
	p.checkChain(t, elements)
	p.checkClient(t, addr, client)
	if p.rules.mask && len(header["Forwarded"]) > 0 {
		t.Errorf("Forwarded leaves: %q", header["Forwarded"])
	}
	if seen := p.rules.ClientAddrPort(r); p.masked(seen.Addr()) != seen.Addr() || p.rules.mask && seen.Port() != 0 {
		t.Errorf("%v leaves", seen)
	}
}

// trusted reports whether the peer is in a private range, or behind a unix socket.
func (p peer) trusted() bool {
	addr := parseAddr(p.remote)
	return p.local == unixAddr || addr.IsPrivate() || addr.IsLoopback()
}

func (p peer) masked(addr netip.Addr) netip.Addr {
	if p.rules.mask {
		return maskAddr(addr)
	}
	return addr
}

// sent are the elements of what the peer has sent.
func (p peer) sent() (elements []string) {
	for _, line := range p.lines {
		for element := range strings.SplitSeq(line, ",") {
			if element = strings.TrimSpace(element); element != "" {
				elements = append(elements, element)
			}
		}
	}
	return elements
}

// checkChain finds each element in what the peer has sent, in order.
func (p peer) checkChain(t *testing.T, elements []string) {
	left := p.sent()
	if len(elements) > len(left)+1 {
		t.Errorf("%q of %q", elements, p.lines)
	}
	for _, element := range elements {
		addr, err := netip.ParseAddr(element)
		if p.rules.mask && (err != nil && element != "unknown" || err == nil && maskAddr(addr) != addr) {
			t.Errorf("%q leaves", element)
		}
		if err == nil && (addr.Zone() != "" || addr.Is4In6() || addr.String() != element) {
			t.Errorf("%q is no plain address", element)
		}
		from := slices.IndexFunc(left, func(sent string) bool {
			of := parseAddr(sent)
			return of.IsValid() && p.masked(of).String() == element || !of.IsValid() && (sent == element || p.rules.mask)
		})
		if from < 0 {
			if named := parseAddr(p.named); !named.IsValid() && !strings.Contains(p.named, ",") {
				t.Errorf("%q was not sent: %q, %q", element, p.lines, p.named)
			}
			continue
		}
		left = left[from+1:]
	}
}

// checkClient goes back from the peer to the client: everyone on the way is trusted.
func (p peer) checkClient(t *testing.T, addr, client netip.Addr) {
	if client == addr {
		return
	}
	for _, sent := range slices.Backward(append([]string{p.named}, p.sent()...)) {
		for part := range strings.SplitSeq(sent, ",") {
			if parseAddr(strings.TrimSpace(part)) == client {
				return
			}
		}
		if of := parseAddr(sent); !of.IsPrivate() && !of.IsLoopback() && of.IsValid() {
			break
		}
	}
	t.Errorf("the client is %v, of %q and %q", client, p.lines, p.named)
}
