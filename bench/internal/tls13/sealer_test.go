package tls13

import (
	"crypto/tls"
	"encoding/hex"
	"io"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestExpand uses the client's keys of RFC 8448, section 3.
func TestExpand(t *testing.T) {
	secret, err := hex.DecodeString("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		label string
		size  int
		want  string
	}{
		{"key", 16, "17422dda596ed5d9acd890e3c63f5051"},
		{"iv", 12, "5b78923dee08579033e523d9"},
	} {
		got, err := expand(secret, test.label, test.size)
		if err != nil || hex.EncodeToString(got) != test.want {
			t.Errorf("%s: %x, %v, not %s", test.label, got, err, test.want)
		}
	}
}

// TestPeerReads has a server of crypto/tls read the records and send them back,
// which its own KeyUpdates precede.
func TestPeerReads(t *testing.T) {
	conn, sealer := dial(t)
	var wire []byte
	var err error
	const text = "before, between and after"
	for _, part := range []string{text[:6], text[6:7], text[7:]} {
		wire = sealer.AppendData(wire, []byte(part))
		if wire, err = sealer.AppendKeyUpdate(wire); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.NetConn().Write(wire); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNothingToSealWith(t *testing.T) {
	if _, err := NewSealer(tls.ConnectionState{CipherSuite: tls.TLS_CHACHA20_POLY1305_SHA256}, &Secret{make([]byte, 32)}); err == nil {
		t.Error("a suite was accepted that it does not know")
	}
	if _, err := NewSealer(tls.ConnectionState{CipherSuite: tls.TLS_AES_128_GCM_SHA256}, &Secret{}); err == nil {
		t.Error("no secret was accepted")
	}
}

// dial connects to a server that sends back what it gets.
func dial(t *testing.T) (*tls.Conn, *Sealer) {
	t.Helper()
	ca := wstest.NewAuthority("ca")
	server := wstest.NewRelay(t, ca.Issue("server.test").ServerConfig(), func(c *wstest.Conn) {
		_, _ = io.Copy(c, c.R)
	})
	var secret Secret
	config := ca.ClientConfig("server.test")
	config.KeyLogWriter, config.MinVersion = &secret, tls.VersionTLS13
	conn, err := tls.Dial("tcp", server.Addr, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.NetConn().Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	state := conn.ConnectionState()
	if state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("this machine prefers %s", tls.CipherSuiteName(state.CipherSuite))
	}
	sealer, err := NewSealer(state, &secret)
	if err != nil {
		t.Fatal(err)
	}
	return conn, sealer
}
