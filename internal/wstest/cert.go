package wstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority issues certificates that only those trust who are given its Pool.
type Authority struct {
	Pool *x509.CertPool // holds the authority alone
	PEM  []byte

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Leaf is a certificate and its key.
type Leaf struct {
	TLS             tls.Certificate
	CertPEM, KeyPEM []byte
}

// NewAuthority returns an authority called name, valid for a day from an hour ago.
// As everything here it has a key on P-256.
func NewAuthority(name string) *Authority {
	template := newTemplate(name)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key := newKey()
	der := sign(template, template, key, key)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err) // it was made here
	}
	a := &Authority{Pool: x509.NewCertPool(), PEM: encodePEM("CERTIFICATE", der), cert: cert, key: key}
	a.Pool.AddCert(cert)
	return a
}

// Issue returns a certificate for servers and clients at hosts, names or addresses,
// valid for a day from an hour ago.
func (a *Authority) Issue(hosts ...string) *Leaf { return a.IssueWith(nil, hosts...) }

// IssueWith is Issue of a certificate that edit has changed, for instance its dates.
func (a *Authority) IssueWith(edit func(*x509.Certificate), hosts ...string) *Leaf {
	template := newTemplate(hosts[0])
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	if edit != nil {
		edit(template)
	}
	key := newKey()
	der := sign(template, a.cert, key, a.key)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err) // it was made here
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err) // as above
	}
	return &Leaf{
		TLS:     tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		CertPEM: encodePEM("CERTIFICATE", der),
		KeyPEM:  encodePEM("PRIVATE KEY", keyDER),
	}
}

// ClientConfig returns what a client needs to trust this authority at serverName and
// to offer protocols by ALPN.
func (a *Authority) ClientConfig(serverName string, protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: a.Pool, ServerName: serverName, NextProtos: protocols}
}

// ServerConfig returns what a server needs to show l and to offer protocols by ALPN.
func (l *Leaf) ServerConfig(protocols ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{l.TLS}, NextProtos: protocols}
}

// WriteFile writes the authority's certificate as PEM and returns the file's name.
func (a *Authority) WriteFile(dir, name string) (file string, err error) {
	file = filepath.Join(dir, name)
	return file, os.WriteFile(file, a.PEM, 0o600)
}

// Files are those of a Leaf, as PEM.
type Files struct {
	Cert, Key string
	Both      string // one file, as HAProxy wants it
}

// WriteFiles writes name.crt, name.key and name.pem into dir.
func (l *Leaf) WriteFiles(dir, name string) (Files, error) {
	base := filepath.Join(dir, name)
	f := Files{Cert: base + ".crt", Key: base + ".key", Both: base + ".pem"}
	if err := os.WriteFile(f.Cert, l.CertPEM, 0o600); err != nil {
		return f, err
	}
	if err := os.WriteFile(f.Key, l.KeyPEM, 0o600); err != nil {
		return f, err
	}
	both := append(append([]byte{}, l.CertPEM...), l.KeyPEM...)
	return f, os.WriteFile(f.Both, both, 0o600)
}

func newTemplate(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err) // never fails (crypto/rand)
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // never fails (crypto/rand)
	}
	return key
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		panic(err) // a template that makes no sense
	}
	return der
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
