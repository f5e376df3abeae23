package contestant

import (
	"crypto/x509"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// Names in the certificates.
const (
	ProxyName = "proxy.test"
	RelayName = "relay.test"
)

// Certs are the files of a certificate authority made for one run.
type Certs struct {
	Roots        string
	Proxy, Relay wstest.Files
	Pool         *x509.CertPool
}

// MakeCerts writes an authority and the proxy's and the relay's certificates,
// ECDSA P-256, into dir.
func MakeCerts(dir string) (c *Certs, err error) {
	ca := wstest.NewAuthority("bench root")
	c = &Certs{Pool: ca.Pool}
	if c.Roots, err = ca.WriteFile(dir, "roots.pem"); err != nil {
		return nil, err
	}
	if c.Proxy, err = ca.Issue(ProxyName).WriteFiles(dir, ProxyName); err != nil {
		return nil, err
	}
	c.Relay, err = ca.Issue(RelayName).WriteFiles(dir, RelayName)
	return c, err
}
