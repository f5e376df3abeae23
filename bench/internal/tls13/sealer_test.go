package tls13

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"math/big"
	"testing"
	"time"
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
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := ln.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	var secret Secret
	conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &secret})
	t.Cleanup(func() {
		if conn != nil {
			conn.NetConn().Close()
		}
		ln.Close()
		<-done
	})
	if err != nil {
		t.Fatal(err)
	}
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

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
