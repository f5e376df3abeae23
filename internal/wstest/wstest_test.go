package wstest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFrames writes frames of each size at which the form of the length changes, and
// reads them again.
func TestFrames(t *testing.T) {
	for _, masked := range []bool{false, true} {
		var wire []byte
		var sent []Frame
		for i, size := range []int{0, 1, 125, 126, 1<<16 - 1, 1 << 16, 100_000} {
			f := Frame{Fin: true, Opcode: Binary, Payload: make([]byte, size)}
			Pattern(f.Payload, uint64(i), 0)
			sent, wire = append(sent, f), f.AppendTo(wire, masked)
		}
		for _, reuse := range []bool{false, true} {
			r := NewReader(bytes.NewReader(wire), masked)
			r.Reuse = reuse
			for i, want := range sent {
				got, err := r.Next()
				if err != nil {
					t.Fatalf("frame %d: %v", i, err)
				}
				if got.Opcode != want.Opcode || !got.Fin || !bytes.Equal(got.Payload, want.Payload) {
					t.Errorf("frame %d is %s, want %s", i, got, want)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("at the end: %v, want EOF", err)
			}
		}
	}
}

// TestStrict has a Reader see what RFC 6455 forbids.
func TestStrict(t *testing.T) {
	text := func(fin bool, opcode byte) Frame { return Frame{Fin: fin, Opcode: opcode, Payload: []byte("x")} }
	for name, test := range map[string]struct {
		wire []byte
		want string // in the error
	}{
		"reserved bits":             {Encode(false, Frame{Fin: true, RSV: 0x40, Opcode: Text}), "reserved bits"},
		"reserved opcode":           {Encode(false, text(true, 3)), "opcode is reserved"},
		"reserved control opcode":   {Encode(false, text(true, 11)), "opcode is reserved"},
		"masked":                    {Encode(true, text(true, Text)), "masked is true"},
		"continuation of nothing":   {Encode(false, text(true, Continuation)), "continuation of nothing"},
		"message in a message":      {Encode(false, text(false, Text), text(false, Text)), "message inside"},
		"fragmented Ping":           {Encode(false, text(false, Ping)), "control frame"},
		"long Ping":                 {Encode(false, Frame{Fin: true, Opcode: Ping, Payload: make([]byte, 126)}), "control frame"},
		"Close in a message":        {Encode(false, text(false, Text), CloseFrame(GoingAway)), "Close frame inside"},
		"frame after a Close frame": {Encode(false, CloseFrame(GoingAway), text(true, Text)), "after a Close frame"},
		"16-bit length of 1":        {text(true, Text).AppendForm(nil, false, Form16), "shortest form"},
		"64-bit length of 1":        {text(true, Text).AppendForm(nil, false, Form64), "shortest form"},
		"endless":                   {[]byte{0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0}, "bytes"},
		"half a header":             {[]byte{0x82}, "unexpected EOF"},
		"half a length":             {[]byte{0x82, 126, 1}, "unexpected EOF"},
		"half a payload":            {[]byte{0x82, 2, 'x'}, "unexpected EOF"},
		"half a message":            {Encode(false, text(false, Text)), "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(test.wire), false)
			var err error
			for err == nil {
				_, err = r.Next()
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

// TestCutOff ends a stream within a payload, of which the beginning is returned.
func TestCutOff(t *testing.T) {
	for _, masked := range []bool{false, true} {
		wire := Encode(masked, Message("hello"))
		f, err := NewReader(bytes.NewReader(wire[:len(wire)-2]), masked).Next()
		if err != io.ErrUnexpectedEOF || string(f.Payload) != "hel" {
			t.Errorf("masked %t: %s, %v, want the payload's beginning and unexpected EOF", masked, f, err)
		}
	}
}

// TestMessages puts a message together of its fragments, with Pings between them.
func TestMessages(t *testing.T) {
	message := StampedMessage(7, 3, 1000)
	fragments := Fragments(Binary, message, 4)
	frames := slices.Insert(fragments, 2, Frame{Fin: true, Opcode: Ping, Payload: []byte("?")})
	r := NewReader(bytes.NewReader(Encode(true, append(frames, CloseFrame(4000, "reason"))...)), true)
	got, err := r.NextMessage()
	if err != nil || got.Opcode != Binary {
		t.Fatalf("%s, %v", got, err)
	}
	if err := CheckMessage(got.Payload, 7, 3); err != nil {
		t.Error(err)
	}
	last, err := r.NextMessage()
	if err != nil || last.Opcode != Close || last.Code() != 4000 || string(last.Payload[2:]) != "reason" {
		t.Errorf("%s, %v, want a Close frame", last, err)
	}
}

// TestDamageShows changes, loses and repeats bytes.
func TestDamageShows(t *testing.T) {
	p := make([]byte, 100)
	for i := range p {
		Pattern(p, 1, 5)
		p[i] ^= 1
		if CheckPattern(p, 1, 5) == nil {
			t.Fatalf("byte %d changed, and nothing is said", i)
		}
	}
	Pattern(p, 1, 5)
	for _, wrong := range []error{CheckPattern(p, 1, 6), CheckPattern(p, 2, 5), CheckPattern(append(p[:50], p[51:]...), 1, 5)} {
		if wrong == nil {
			t.Error("bytes out of place, and nothing is said")
		}
	}
	m := StampedMessage(1, 2, 50)
	for _, wrong := range []error{CheckMessage(m, 1, 3), CheckMessage(m, 2, 2), CheckMessage(m[:8], 1, 2)} {
		if wrong == nil {
			t.Error("another message, and nothing is said")
		}
	}
}

// TestPatternInPieces takes a stream apart and checks the pieces.
func TestPatternInPieces(t *testing.T) {
	p := make([]byte, 64)
	Pattern(p, 9, 0)
	for from := range p {
		for to := from; to <= len(p); to++ {
			if err := CheckPattern(p[from:to], 9, uint64(from)); err != nil {
				t.Fatalf("bytes %d to %d: %v", from, to, err)
			}
		}
	}
}

// TestAccept has the values of RFC 6455.
func TestAccept(t *testing.T) {
	if got := Accept(SampleKey); got != SampleAccept {
		t.Errorf("%q, want %q", got, SampleAccept)
	}
}

// TestCertificates has TLS take what is issued, and refuse what should be.
func TestCertificates(t *testing.T) {
	ca, other := NewAuthority("ca"), NewAuthority("other")
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	for name, test := range map[string]struct {
		ca   *Authority
		leaf *Leaf
		host string
		ok   bool
	}{
		"name":              {ca, ca.Issue("relay.test", "127.0.0.1"), "relay.test", true},
		"address":           {ca, ca.Issue("relay.test", "127.0.0.1"), "127.0.0.1", true},
		"another name":      {ca, ca.Issue("relay.test"), "other.test", false},
		"another authority": {other, ca.Issue("relay.test"), "relay.test", false},
		"expired":           {ca, ca.IssueWith(expired, "relay.test"), "relay.test", false},
	} {
		t.Run(name, func(t *testing.T) {
			relay := NewRelay(t, test.leaf.ServerConfig(), func(c *Conn) { c.ReadToEnd() })
			c, err := Dialer{TLS: test.ca.ClientConfig(test.host)}.Dial(t.Context(), "tcp", relay.Addr)
			if err == nil {
				c.Close()
			}
			if (err == nil) != test.ok {
				t.Errorf("error %v, want one: %t", err, !test.ok)
			}
		})
	}
}

// TestFiles loads what was written.
func TestFiles(t *testing.T) {
	ca := NewAuthority("ca")
	files, err := ca.Issue("localhost").WriteFiles(t.TempDir(), "localhost")
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{files.Cert, files.Key}, {files.Both, files.Both}} {
		if _, err := tls.LoadX509KeyPair(pair[0], pair[1]); err != nil {
			t.Error(err)
		}
	}
	name, err := ca.WriteFile(t.TempDir(), "roots.pem")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(name); err != nil || !x509.NewCertPool().AppendCertsFromPEM(text) {
		t.Errorf("no roots in the file: %v", err)
	}
}

// pairs runs a test with a client and a relay that are connected, over TCP and TLS.
func pairs(t *testing.T, test func(t *testing.T, client, relay *Conn)) {
	ca := NewAuthority("ca")
	for name, dialer := range map[string]Dialer{
		"TCP": {}, "TLS": {TLS: ca.ClientConfig("relay.test")},
	} {
		t.Run(name, func(t *testing.T) {
			var config *tls.Config
			if dialer.TLS != nil {
				config = ca.Issue("relay.test").ServerConfig()
			}
			relay := NewRelay(t, config, nil)
			dialed := make(chan *Conn)
			go func() {
				dialer.ReadBuffer = 4096
				c, err := dialer.Dial(t.Context(), "tcp", relay.Addr)
				if err != nil {
					t.Error(err)
				}
				dialed <- c
			}()
			accepted := relay.Next()
			if secure, ok := accepted.Conn.(*tls.Conn); ok {
				if err := secure.Handshake(); err != nil {
					t.Fatal(err)
				}
			}
			client := <-dialed
			if client == nil {
				t.FailNow()
			}
			defer client.Close()
			test(t, client, accepted)
		})
	}
}

// TestWebSocket opens one by hand and counts the bytes.
func TestWebSocket(t *testing.T) {
	pairs(t, func(t *testing.T, client, relay *Conn) {
		done := make(chan error, 1)
		go func() {
			_, err := relay.AcceptHandshakeWith(string(Encode(false, Message("at once"))), "X-Relay: yes")
			done <- err
		}()
		response, err := client.HandshakeWith(string(Encode(true, Message("early"))), "/?apiKey=k", "Origin: https://page.example")
		if err != nil || response.Header.Get("X-Relay") != "yes" {
			t.Fatalf("%v, %v", response, err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for c, want := range map[*Conn]string{client: "at once", relay: "early"} {
			if f, err := c.Next(); err != nil || string(f.Payload) != want {
				t.Errorf("%s, %v, want %q", f, err, want)
			}
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := relay.Next(); err != io.EOF {
			t.Errorf("after the client's end: %v, want EOF", err)
		}
		if err := relay.Send(Message("still here"), CloseFrame(NormalClosure)); err != nil {
			t.Error(err)
		}
		relay.CloseWrite()
		if f, err := client.NextCode(); err != nil || f != NormalClosure {
			t.Errorf("code %d, %v", f, err)
		}
		if client.Sent() != relay.Received() || relay.Sent() != client.Received() {
			t.Errorf("client %d and %d, relay %d and %d bytes", client.Sent(), client.Received(), relay.Sent(), relay.Received())
		}
	})
}

// TestEnds ends connections in each way.
func TestEnds(t *testing.T) {
	pairs(t, func(t *testing.T, client, relay *Conn) {
		if err := client.Reset(); err != nil {
			t.Fatal(err)
		}
		if _, err := relay.ReadToEnd(); !IsReset(err) {
			t.Errorf("after a reset: %v", err)
		}
	})
	pairs(t, func(t *testing.T, client, relay *Conn) {
		if err := client.Drop(); err != nil {
			t.Fatal(err)
		}
		if got, err := relay.ReadToEnd(); err != nil || len(got) > 0 {
			t.Errorf("after the end: %q, %v", got, err)
		}
	})
}

// TestWriteSlowly waits after each piece until the other side has it.
func TestWriteSlowly(t *testing.T) {
	pairs(t, func(t *testing.T, client, relay *Conn) {
		sent := make([]byte, 50)
		Pattern(sent, 1, 0)
		var got []byte
		err := client.WriteSlowly(sent, 7, func() error {
			piece, err := relay.ReadExactly(7)
			got = append(got, piece...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		rest, err := relay.ReadExactly(50 - len(got))
		if err := errors.Join(err, CheckPattern(append(got, rest...), 1, 0)); err != nil {
			t.Error(err)
		}
	})
}

// TestStall fills the way to a client that does not read.
func TestStall(t *testing.T) {
	pairs(t, func(t *testing.T, client, relay *Conn) {
		sent := make(chan error, 1)
		go func() {
			for {
				if _, err := relay.Write(make([]byte, 64<<10)); err != nil {
					sent <- err
					return
				}
			}
		}()
		client.Raw().(*net.TCPConn).SetReadDeadline(time.Now()) // it reads nothing
		relay.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if err := <-sent; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want the write to be held up", err)
		}
	})
}

// TestPreamble puts a line before TLS.
func TestPreamble(t *testing.T) {
	ca := NewAuthority("ca")
	line := "PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n"
	relay := NewRelay(t, nil, func(c *Conn) {
		if got, err := c.R.ReadString('\n'); err != nil || got != line {
			t.Errorf("%q, %v", got, err)
		}
		secure := NewConn(tls.Server(Rest{c}, ca.Issue("relay.test").ServerConfig()), false)
		secure.ReadToEnd()
	})
	c, err := Dialer{TLS: ca.ClientConfig("relay.test"), Preamble: line}.Dial(t.Context(), "tcp", relay.Addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// FuzzReader has a Reader take anything, and encode again what it took.
func FuzzReader(f *testing.F) {
	f.Add(Encode(false, Message("hello"), CloseFrame(GoingAway)))
	f.Add(Encode(false, Fragments(Binary, make([]byte, 300), 2)...))
	f.Add([]byte{0x82, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := NewReader(bytes.NewReader(wire), false)
		var again []byte
		for {
			frame, err := r.Next()
			if err != nil {
				break
			}
			again = frame.AppendTo(again, false)
		}
		if !bytes.HasPrefix(wire, again) {
			t.Errorf("%x was read as %x", wire, again)
		}
	})
}
