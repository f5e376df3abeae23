// Package pki writes the certificates of a test into files, where programs find them.
package pki

import (
	"crypto/sha256"
	"encoding/base64"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// CA issues certificates that only this test trusts.
type CA struct {
	*wstest.Authority
	File string // PEM
}

// Leaf is a certificate with its key, also as PEM files.
type Leaf struct {
	*wstest.Leaf
	CertFile, KeyFile string
}

// New returns a CA called name.
func New(tb testing.TB, name string) *CA {
	tb.Helper()
	a := wstest.NewAuthority(name)
	return &CA{a, program.WriteFile(tb, name+".ca.pem", string(a.PEM))}
}

// Issue returns a certificate for servers and clients at hosts. The first names
// its files.
func (ca *CA) Issue(tb testing.TB, hosts ...string) *Leaf {
	tb.Helper()
	leaf := ca.Authority.Issue(hosts...)
	return &Leaf{
		Leaf:     leaf,
		CertFile: program.WriteFile(tb, hosts[0]+".cert.pem", string(leaf.CertPEM)),
		KeyFile:  program.WriteFile(tb, hosts[0]+".key.pem", string(leaf.KeyPEM)),
	}
}

// SPKI returns the hash of the public key, as Chromium's flags take it.
func (l *Leaf) SPKI() string {
	sum := sha256.Sum256(l.TLS.Leaf.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
