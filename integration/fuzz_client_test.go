package integration_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// FuzzFromClient has a client send any bytes. What the relay gets of it are whole and
// unambiguous requests, each one of the client's, in order and once: below the mount, the
// query byte for byte, the body whole, with no field that must not cross or that nobody
// sent. What follows the head of a WebSocket is the WebSocket's.
func FuzzFromClient(f *testing.F) {
	relay := newSeeingRelay(f)
	p := start(f, fuzzSite(relay.addr))
	f.Fuzz(func(t *testing.T, stream string) {
		if len(stream) > maxFuzzed {
			return
		}
		c, addr := newFuzzClient(t, p)
		defer c.Drop()
		requests := readRequests(stream)
		switched := sendAndRead(t, c, stream, requests)
		relay.check(t, addr, stream, requests, switched)
		checkFuzzLogs(t, p)
	})
}

// sendAndRead sends stream and reads what comes until the proxy has nothing more to say.
// It returns for how many of the requests the proxy has switched protocols.
func sendAndRead(t *testing.T, c *wstest.Conn, stream string, requests []fuzzRequest) (switched int) {
	c.WriteText(stream) // the proxy may have had enough early
	for _, request := range requests {
		if !request.complete {
			break
		}
		response, err := readFinal(c, request.Method)
		if err != nil {
			break
		}
		if response.StatusCode == http.StatusSwitchingProtocols {
			switched++
			break
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err != nil && !wstest.IsReset(err) { // net/http has had enough of a request
			t.Errorf("%s %s: a response without its end: %v", request.Method, request.RequestURI, err)
		}
		if err != nil || response.Close {
			break
		}
	}
	c.CloseWrite()
	if _, err := c.ReadToEnd(); err != nil && !wstest.IsReset(err) {
		t.Errorf("the connection does not end: %v", err)
	}
	return switched
}

func readFinal(c *wstest.Conn, method string) (*http.Response, error) {
	for {
		response, err := c.ReadResponse(method)
		if err != nil || response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return response, err
		}
	}
}

// seeingRelay accepts WebSockets, responds to all other requests, and keeps what it has
// seen of each client.
type seeingRelay struct {
	addr  string
	never names // what must not get here

	mu   sync.Mutex // protects what follows
	seen map[string][]*seen
	bad  []error // what cannot be told to be anyone's
}

// seen is a request as the relay saw it.
type seen struct {
	head     head
	text     string // of the head
	request  *http.Request
	body     string
	complete bool
	tunnel   string // what came after the 101
	bad      error
	done     chan struct{} // closed when nothing of it changes any more
}

func newSeeingRelay(f *testing.F) *seeingRelay {
	r := &seeingRelay{never: documentedNames(f, "| never forwarded |"), seen: make(map[string][]*seen)}
	r.addr = fuzzListener(f, r.serve)
	return r
}

func (r *seeingRelay) serve(conn net.Conn) {
	reader := bufio.NewReader(conn)
	for {
		head, text, err := readHead(reader)
		if text == "" {
			return // a kept connection's end
		}
		s := &seen{head: head, text: text, bad: err, done: make(chan struct{})}
		r.add(s)
		upgrade := err == nil && s.read(reader) && asksUpgrade(s.request.Header)
		if upgrade {
			s.switchProtocols(conn, reader)
		}
		close(s.done)
		if upgrade || !s.complete {
			return
		}
		response := "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
		if s.request.Method != http.MethodHead {
			response += "relay"
		}
		if _, err := io.WriteString(conn, response); err != nil {
			return
		}
	}
}

// add files s under the client that X-Forwarded-For names.
func (r *seeingRelay) add(s *seen) {
	chain := s.head.values["X-Forwarded-For"]
	var client netip.Addr
	if len(chain) == 1 {
		client, _ = netip.ParseAddr(chain[0])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !netip.MustParsePrefix("2001:db8::/96").Contains(client) {
		r.bad = append(r.bad, fmt.Errorf("X-Forwarded-For is %q (%v) in\n%s", chain, s.bad, s.text))
		return
	}
	r.seen[client.String()] = append(r.seen[client.String()], s)
}

// read reads the request whose head has been read, and reports whether all of it came.
func (s *seen) read(rest *bufio.Reader) (whole bool) {
	r := bufio.NewReader(io.MultiReader(strings.NewReader(s.text), rest))
	if s.request, s.bad = http.ReadRequest(r); s.bad != nil {
		return false
	}
	body, err := io.ReadAll(s.request.Body)
	s.body, s.complete = string(body), err == nil
	if ahead, _ := r.Peek(r.Buffered()); s.complete && len(ahead) > 0 {
		s.bad = fmt.Errorf("%q comes after the request", ahead)
	}
	return s.complete
}

func (s *seen) switchProtocols(conn net.Conn, r *bufio.Reader) {
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		wstest.Accept(s.request.Header.Get("Sec-Websocket-Key")))
	rest, err := io.ReadAll(r)
	s.tunnel = string(rest)
	if err != nil {
		s.bad = fmt.Errorf("the WebSocket ends with %v", err)
	}
}

// check compares what a client sent with what came here of it.
func (r *seeingRelay) check(t *testing.T, addr, stream string, requests []fuzzRequest, switched int) {
	for _, s := range r.take(t, addr) {
		<-s.done // the client has gone, and so must the proxy
		if err := s.valid(r.addr, r.never); err != nil {
			t.Errorf("%v in\n%s", err, s.text)
			continue
		}
		from := slices.IndexFunc(requests, s.isOf)
		if from < 0 {
			t.Errorf("none of the client's, or not in order, or twice:\n%s%s", s.text, s.body)
			continue
		}
		request := requests[from]
		requests = requests[from+1:]
		if err := s.onlyOf(request); err != nil {
			t.Errorf("%v in\n%s", err, s.text)
		}
		if !asksUpgrade(s.request.Header) {
			continue
		}
		if switched--; s.tunnel != stream[request.headEnd:] {
			t.Errorf("%q went through the WebSocket, want %q", s.tunnel, stream[request.headEnd:])
		}
	}
	if switched > 0 {
		t.Error("a WebSocket that the relay has not accepted")
	}
}

// take returns what has come of a client's.
func (r *seeingRelay) take(t *testing.T, addr string) []*seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.bad {
		t.Error(err)
	}
	r.bad = nil
	taken := r.seen[addr]
	delete(r.seen, addr)
	return taken
}

// valid returns what no request may have, whoever sent it.
func (s *seen) valid(relay string, never names) error {
	method, rest, _ := strings.Cut(s.head.start, " ")
	target, version, _ := strings.Cut(rest, " ")
	switch {
	case s.bad != nil:
		return s.bad
	case !httpguts.ValidHeaderFieldName(method) || version != "HTTP/1.1":
		return fmt.Errorf("not a request line: %q", s.head.start)
	case strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return fmt.Errorf("not a target: %q", target)
	case !slices.Equal(s.head.values["Host"], []string{relay}):
		return fmt.Errorf("Host is %q", s.head.values["Host"])
	case len(s.head.values["Cdn-Loop"]) == 0:
		return fmt.Errorf("no CDN-Loop")
	}
	if err := s.head.framing(); err != nil {
		return err
	}
	if err := belowBase(target); err != nil {
		return err
	}
	return s.noForbidden(never)
}

// belowBase has a target resolved as a careless relay may resolve it.
func belowBase(target string) error {
	escaped, _, _ := strings.Cut(target, "?")
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		plain = escaped
	}
	resolved := path.Clean(strings.ReplaceAll(plain, `\`, "/"))
	if !strings.HasPrefix(escaped, "/base/") || resolved != "/base" && !strings.HasPrefix(resolved, "/base/") {
		return fmt.Errorf("%q is not below /base: %q", target, resolved)
	}
	return nil
}

// rewritten are fields of docs' table that the proxy writes anew, and own those that it
// adds or decides by itself.
var (
	rewritten = []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}
	own       = []string{
		"Host", "Via", "Cdn-Loop", "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Connection", "Upgrade",
		"Referer", "User-Agent",
	}
)

func (s *seen) noForbidden(never names) error {
	fields := slices.DeleteFunc(slices.Clone(s.head.fields), func(name string) bool { return slices.Contains(rewritten, name) })
	for name := range s.request.Trailer {
		fields = append(fields, name)
	}
	if name := never.find(fields...); name != "" {
		return fmt.Errorf("%s crosses", name)
	}
	if connection := s.head.values["Connection"]; len(connection) > 0 && !slices.Equal(connection, []string{"Upgrade"}) && !slices.Equal(connection, []string{"close"}) {
		return fmt.Errorf("Connection is %q", connection)
	}
	if name := hopFields.find(slices.DeleteFunc(fields, func(name string) bool { return name == "Te" })...); name != "" {
		return fmt.Errorf("%s crosses", name)
	}
	return nil
}

// isOf reports whether s can be what the proxy made of request.
func (s *seen) isOf(request fuzzRequest) bool {
	query, want := s.request.URL.RawQuery, request.URL.RawQuery
	return s.request.Method == request.Method && query == want && samePath(s.request.URL.Path, request.URL.Path) &&
		(!s.complete || request.complete && s.body == request.body)
}

// samePath compares unescaped paths. Slashes after the mount become one unless they were
// escaped, which cannot be seen here.
func samePath(relay, client string) bool {
	const mount = "/websocket"
	if len(client) < len(mount) || !strings.EqualFold(client[:len(mount)], mount) {
		return false
	}
	rest := client[len(mount):]
	below, ok := strings.CutPrefix(relay, "/base/")
	return ok && (rest == "" || rest[0] == '/' && len(below) < len(rest)) && strings.TrimLeft(below, "/") == strings.TrimLeft(rest, "/")
}

// onlyOf returns which field of s is not the client's.
func (s *seen) onlyOf(request fuzzRequest) error {
	for name, values := range s.request.Header {
		if slices.Contains(own, name) || slices.Contains(rewritten, name) {
			continue
		}
		if !sameValues(values, request.Header[name]) {
			return fmt.Errorf("%s is %q, the client sent %q", name, values, request.Header[name])
		}
	}
	return nil
}
