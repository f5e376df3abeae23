package integration_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// maxFuzzed is how much of what a fuzzer makes up is worth sending.
const maxFuzzed = 16 << 10

// head is the head of an HTTP message, read more strictly than net/http reads it.
type head struct {
	start  string
	fields []string // names, as they are written
	values map[string][]string
}

// readHead returns the head that r begins with. The error is about how it is written;
// one of r's own is io.EOF or io.ErrUnexpectedEOF.
func readHead(r *bufio.Reader) (h head, text string, err error) {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		text += line
		if err != nil {
			if text != "" {
				err = io.ErrUnexpectedEOF
			}
			return h, text, err
		}
		line, ok := strings.CutSuffix(line, "\r\n")
		if !ok {
			return h, text, fmt.Errorf("a line ends without CR LF: %q", text)
		}
		if line == "" {
			break
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return h, text, fmt.Errorf("an empty line where a message should begin")
	}
	h = head{start: lines[0], values: make(map[string][]string)}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return h, text, fmt.Errorf("not a field line: %q", line)
		}
		h.fields = append(h.fields, name)
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		h.values[canonical] = append(h.values[canonical], strings.Trim(value, " \t"))
	}
	return h, text, nil
}

// framing returns what is wrong with the fields that say where the message ends.
func (h head) framing() error {
	lengths, codings := h.values["Content-Length"], h.values["Transfer-Encoding"]
	if len(lengths)+len(codings) > 1 || len(codings) == 1 && codings[0] != "chunked" {
		return fmt.Errorf("Content-Length %q, Transfer-Encoding %q", lengths, codings)
	}
	return nil
}

// names is a set of field names. One that ends in * stands for all that begin with the
// rest of it.
type names []string

// find returns the first of fields that is in n. An underscore counts as a hyphen.
func (n names) find(fields ...string) string {
	for _, field := range fields {
		folded := strings.ToLower(strings.ReplaceAll(field, "_", "-"))
		for _, name := range n {
			prefix, any := strings.CutSuffix(strings.ToLower(name), "*")
			if folded == prefix || any && strings.HasPrefix(folded, prefix) {
				return field
			}
		}
	}
	return ""
}

// keptPatience is longer than the proxy keeps a connection that is not in use.
const keptPatience = 10 * patience

// fuzzListener gives each connection to handle, until the test ends. Unlike wstest's it
// keeps nothing of those that are over.
func fuzzListener(tb testing.TB, handle func(net.Conn)) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(keptPatience))
			serving.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	return ln.Addr().String()
}

// fuzzSite is a site without TLS whose clients say who they are, one after another.
func fuzzSite(relay string) site {
	s := mount("ws://" + relay + "/base")
	s.plain, s.server = true, proxyProtocol
	return s
}

// fuzzClients counts the clients of this process.
var fuzzClients atomic.Uint32

// newFuzzClient connects as a client that nobody has been before, and that nobody
// trusts. No two have the same address.
func newFuzzClient(t *testing.T, p *proxy) (c *wstest.Conn, addr string) {
	ip := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	binary.BigEndian.PutUint32(ip[12:], fuzzClients.Add(1))
	addr = netip.AddrFrom16(ip).String()
	c, err := wstest.Dialer{Preamble: from(addr)}.Dial(t.Context(), p.network, p.addr)
	if err != nil {
		t.Fatal(err)
	}
	return c, addr
}

// checkFuzzLogs looks for what no request may cause, and forgets the rest.
func checkFuzzLogs(t *testing.T, p *proxy) {
	for _, word := range []string{"panic serving", "superfluous", "goroutine "} {
		if lines, _ := p.logs.matching(word); len(lines) > 0 {
			t.Errorf("the log has %q:\n%s", word, strings.Join(lines, ""))
		}
	}
	p.logs.forget()
}

// fuzzRequest is a request as net/http reads it from what a client sent.
type fuzzRequest struct {
	*http.Request
	body     string
	complete bool
	headEnd  int // where in the stream its head ends
}

// readRequests reads stream as a server does that knows no WebSocket. One that is cut off
// comes last.
func readRequests(stream string) (requests []fuzzRequest) {
	from := strings.NewReader(stream)
	r := bufio.NewReader(from)
	for {
		request, err := http.ReadRequest(r)
		if err != nil || request.Method == "PRI" { // HTTP/2 begins
			return requests
		}
		read := fuzzRequest{Request: request, headEnd: len(stream) - from.Len() - r.Buffered()}
		body, err := io.ReadAll(request.Body)
		read.body, read.complete = string(body), err == nil
		requests = append(requests, read)
		if err != nil {
			return requests
		}
	}
}

// asksUpgrade reports whether a request wants to leave HTTP.
func asksUpgrade(header http.Header) bool {
	return httpguts.HeaderValuesContainsToken(header["Connection"], "upgrade") && len(header["Upgrade"]) > 0
}

// sameValues compares field values that may have had spaces around them.
func sameValues(a, b []string) bool {
	return slices.EqualFunc(a, b, func(a, b string) bool { return strings.TrimSpace(a) == strings.TrimSpace(b) })
}
