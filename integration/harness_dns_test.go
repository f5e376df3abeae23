package integration_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer knows one name, relay.example, which is 127.0.0.1 unless told otherwise. Any
// other does not exist.
type nameServer struct {
	addr  string
	asked atomic.Int64 // questions about relay.example

	mu     sync.Mutex // protects what follows
	known  map[string][]netip.Addr
	rcode  dnsmessage.RCode // for every question, unless it is a success
	silent bool
	held   []func() // answers to what was asked in silence
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{addr: conn.LocalAddr().String(), known: make(map[string][]netip.Addr)}
	s.set("relay.example", "127.0.0.1")
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			question := slices.Clone(buf[:n])
			respond := func() {
				if answer, err := s.answer(question); err == nil {
					conn.WriteTo(answer, from)
				}
			}
			if !s.hold(respond) {
				respond()
			}
		}
	})
	t.Cleanup(func() {
		s.speak() // or the resolver waits for 5 s, whether anybody waits for it or not
		awaitTrue(t, "end of lookups", func() bool { return inStacks("net.(*Resolver)") == 0 })
		conn.Close()
		serving.Wait()
	})
	return s
}

// set has a name be addresses from now on.
func (s *nameServer) set(name string, addrs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[name] = nil
	for _, addr := range addrs {
		s.known[name] = append(s.known[name], netip.MustParseAddr(addr))
	}
}

// fail has each question be answered with rcode.
func (s *nameServer) fail(rcode dnsmessage.RCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcode = rcode
}

// fallSilent has no question be answered before the test ends.
func (s *nameServer) fallSilent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = true
}

// hold reports whether the server is silent, and keeps the answer for later.
func (s *nameServer) hold(respond func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent {
		s.held = append(s.held, respond)
	}
	return s.silent
}

// speak ends a silence.
func (s *nameServer) speak() {
	s.mu.Lock()
	held := s.held
	s.silent, s.held = false, nil
	s.mu.Unlock()
	for _, respond := range held {
		respond()
	}
}

func (s *nameServer) answer(question []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	if name == "relay.example" && q.Type == dnsmessage.TypeA {
		s.asked.Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs, ok := s.known[name]
	switch {
	case s.rcode != dnsmessage.RCodeSuccess:
		m.RCode = s.rcode
	case !ok:
		m.RCode = dnsmessage.RCodeNameError
	default:
		m.Answers = resources(q, addrs)
	}
	return m.Pack()
}

// resources are those of addrs that q asks for.
func resources(q dnsmessage.Question, addrs []netip.Addr) (found []dnsmessage.Resource) {
	for _, addr := range addrs {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 3600}}
		switch {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		found = append(found, r)
	}
	return found
}

// transport is the option that asks s for names. Others of the transport may follow.
func (s *nameServer) transport(options ...string) string {
	return transport("resolvers " + s.addr + "\n" + strings.Join(options, "\n"))
}
