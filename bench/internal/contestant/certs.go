package contestant

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Names in the certificates.
const (
	ProxyName = "proxy.test"
	RelayName = "relay.test"
)

// Certs are the files of a certificate authority made for one run.
type Certs struct {
	Roots string
	Proxy Pair
	Relay Pair
	Pool  *x509.CertPool
}

// Pair is a certificate and its key, apart and in one file.
type Pair struct {
	Cert, Key, Both string
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// MakeCerts writes an authority and the proxy's and the relay's certificates,
// ECDSA P-256, into dir.
func MakeCerts(dir string) (*Certs, error) {
	ca, caPEM, err := newAuthority()
	if err != nil {
		return nil, err
	}
	c := &Certs{Roots: filepath.Join(dir, "roots.pem"), Pool: x509.NewCertPool()}
	c.Pool.AddCert(ca.cert)
	if err := os.WriteFile(c.Roots, caPEM, 0o644); err != nil {
		return nil, err
	}
	if c.Proxy, err = ca.issue(dir, ProxyName); err != nil {
		return nil, err
	}
	c.Relay, err = ca.issue(dir, RelayName)
	return c, err
}

func newAuthority() (*authority, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	tmpl := certificate(1, "bench root")
	tmpl.IsCA = true
	tmpl.BasicConstraintsValid = true
	tmpl.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, encode("CERTIFICATE", der), err
}

func (a *authority) issue(dir, name string) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	tmpl := certificate(2, name)
	tmpl.DNSNames = []string{name}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return Pair{}, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return writePair(filepath.Join(dir, name), encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER))
}

func writePair(base string, cert, key []byte) (Pair, error) {
	p := Pair{Cert: base + ".crt", Key: base + ".key", Both: base + ".pem"}
	for file, content := range map[string][]byte{p.Cert: cert, p.Key: key, p.Both: append(cert, key...)} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return Pair{}, err
		}
	}
	return p, nil
}

func certificate(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
