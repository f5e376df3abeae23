// Package pki issues the certificates of a test.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// CA issues certificates that only this test trusts.
type CA struct {
	Pool *x509.CertPool
	File string // PEM

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Leaf is a certificate with its key, also as PEM files.
type Leaf struct {
	TLS               tls.Certificate
	CertFile, KeyFile string
}

// New returns a CA called name.
func New(tb testing.TB, name string) *CA {
	tb.Helper()
	template := newTemplate(tb, name)
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key := newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	ca := &CA{Pool: x509.NewCertPool(), key: key}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	ca.Pool.AddCert(ca.cert)
	ca.File = writePEM(tb, name+".ca.pem", "CERTIFICATE", der)
	return ca
}

// Issue returns a certificate for servers and clients at hosts. The first names
// its files.
func (ca *CA) Issue(tb testing.TB, hosts ...string) *Leaf {
	tb.Helper()
	template := newTemplate(tb, hosts[0])
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key := newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return &Leaf{
		TLS:      tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		CertFile: writePEM(tb, hosts[0]+".cert.pem", "CERTIFICATE", der),
		KeyFile:  writePEM(tb, hosts[0]+".key.pem", "PRIVATE KEY", keyDER),
	}
}

// SPKI is the hash of the public key, as Chromium's flags take it.
func (l *Leaf) SPKI(tb testing.TB) string {
	tb.Helper()
	cert, err := x509.ParseCertificate(l.TLS.Certificate[0])
	if err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func newTemplate(tb testing.TB, name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		tb.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func writePEM(tb testing.TB, name, kind string, der []byte) string {
	return program.WriteFile(tb, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}
