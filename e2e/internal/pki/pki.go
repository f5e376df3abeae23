// Package pki writes the certificates of a test into files, where programs find them.
package pki

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// CA issues certificates that only this test trusts.
type CA struct {
	Pool *x509.CertPool
	File string // PEM

	authority *wstest.Authority
}

// Leaf is a certificate with its key, also as PEM files.
type Leaf struct {
	TLS               tls.Certificate
	CertFile, KeyFile string
}

// New returns a CA called name.
func New(tb testing.TB, name string) *CA {
	tb.Helper()
	a := wstest.NewAuthority(name)
	return &CA{Pool: a.Pool, File: program.WriteFile(tb, name+".ca.pem", string(a.PEM)), authority: a}
}

// Issue returns a certificate for servers and clients at hosts. The first names
// its files.
func (ca *CA) Issue(tb testing.TB, hosts ...string) *Leaf {
	tb.Helper()
	leaf := ca.authority.Issue(hosts...)
	return &Leaf{
		TLS:      leaf.TLS,
		CertFile: program.WriteFile(tb, hosts[0]+".cert.pem", string(leaf.CertPEM)),
		KeyFile:  program.WriteFile(tb, hosts[0]+".key.pem", string(leaf.KeyPEM)),
	}
}

// SPKI is the hash of the public key, as Chromium's flags take it.
func (l *Leaf) SPKI(testing.TB) string {
	sum := sha256.Sum256(l.TLS.Leaf.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
