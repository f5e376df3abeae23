package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/terminal"
)

// allowedSkew is by how much two clocks may differ before that is worth a word.
const allowedSkew = 5 * time.Minute

// noApplicationProtocol is the alert of a server that speaks none of the protocols
// which the client offers (RFC 7301, section 3.2), as crypto/tls writes it.
const noApplicationProtocol = "no application protocol"

// secure begins TLS as a browser does for a WebSocket: it offers HTTP/1.1 alone.
func (r *run) secure(ctx context.Context) result {
	if r.URL.Scheme != "wss" {
		return notTested("ws:// has no TLS", "use wss:// in production: pages served by https:// can open no other WebSocket")
	}
	conn, err := r.handshakeTLS(ctx, r.conn, "http/1.1")
	if err != nil {
		r.close()
		return r.insecure(ctx, err).andFinal()
	}
	r.conn = conn
	state := conn.ConnectionState()
	seen, certs := tls.VersionName(state.Version), state.PeerCertificates
	err = r.verify(certs)
	switch {
	case err == nil:
		return r.certified(seen, certs[0])
	case r.Insecure:
		bad := r.uncertified(ctx, certs, err)
		return notTested(seen+"; --insecure: "+bad.mistake+": "+bad.seen, bad.hint)
	}
	bad := r.uncertified(ctx, certs, err)
	r.close()
	return bad.andFinal()
}

// handshakeTLS leaves it to the caller to verify, who then knows the certificate.
func (r *run) handshakeTLS(ctx context.Context, conn net.Conn, protocol string) (*tls.Conn, error) {
	secure := tls.Client(conn, &tls.Config{
		ServerName:         r.URL.Hostname(),
		NextProtos:         []string{protocol},
		InsecureSkipVerify: true,
	})
	return secure, secure.HandshakeContext(ctx)
}

func (r *run) verify(certs []*x509.Certificate) error { return r.verifyAt(certs, r.Now()) }

func (r *run) verifyAt(certs []*x509.Certificate, now time.Time) error {
	options := x509.VerifyOptions{
		Roots: r.Roots, DNSName: r.URL.Hostname(), CurrentTime: now, Intermediates: x509.NewCertPool(),
	}
	for _, cert := range certs[1:] {
		options.Intermediates.AddCert(cert)
	}
	_, err := certs[0].Verify(options)
	return err
}

func (r *run) certified(version string, cert *x509.Certificate) result {
	left := cert.NotAfter.Sub(r.Now())
	seen := fmt.Sprintf("%s; certificate of %s by %s, %s left", version, names(cert), issuer(cert), long(left))
	result := passed(seen)
	if left < cert.NotAfter.Sub(cert.NotBefore)/5 {
		result.hint = "the certificate should have been renewed by now: look for errors of tls.renew in Caddy's log"
	}
	return result
}

// uncertified names what is wrong with a certificate.
func (r *run) uncertified(ctx context.Context, certs []*x509.Certificate, err error) result {
	host, cert := r.URL.Hostname(), certs[0]
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &name):
		return failed("the certificate is for another name", "it is for "+names(cert),
			"make "+host+" the address of the site in the Caddyfile, or correct the name in the URL")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return r.outOfTime(ctx, certs, invalid.Cert)
	case errors.As(err, &unknown):
		return failed("the certificate's issuer is not trusted", fmt.Sprintf("%s, by %s", names(cert), issuer(cert)),
			"have Caddy get a public certificate; for one of Caddy's own authority run `caddy trust` here, or check with --insecure")
	}
	return failed("the certificate is not valid", fmt.Sprintf("%s, by %s", names(cert), issuer(cert)),
		"see in Caddy's log why it has no valid certificate")
}

// outOfTime tells a certificate that has expired from a clock that is wrong, by the
// time that the server names. expired is one of certs, or nil.
func (r *run) outOfTime(ctx context.Context, certs []*x509.Certificate, expired *x509.Certificate) result {
	if expired == nil {
		expired = certs[0]
	}
	now := r.Now()
	seen := fmt.Sprintf("it expired %s ago", long(now.Sub(expired.NotAfter)))
	if now.Before(expired.NotBefore) {
		seen = fmt.Sprintf("it becomes valid in %s", long(expired.NotBefore.Sub(now)))
	}
	if theirs, ok := r.askTime(ctx); ok && theirs.Sub(now).Abs() > allowedSkew && r.verifyAt(certs, theirs) == nil {
		return failed("the clock of this computer is off", skewText(theirs.Sub(now)),
			"set this computer's clock, by NTP; browsers on it cannot connect either")
	}
	if now.Before(expired.NotBefore) {
		return failed("the certificate is not valid yet", seen, "compare the clocks of this computer and the server with the time")
	}
	return failed("the certificate has expired", seen,
		"see in Caddy's log why it is not renewed: ports 80 and 443 must be reachable, and the name must lead to Caddy")
}

// skewText says how this computer's clock differs from a server's that is ahead of it
// by skew.
func skewText(skew time.Duration) string {
	if skew < 0 {
		return "it is " + long(-skew) + " ahead of the server's"
	}
	return "it is " + long(skew) + " behind the server's"
}

// askTime asks the server for its time, on the open connection and with neither key
// nor path: nobody vouches for who that is.
func (r *run) askTime(ctx context.Context) (time.Time, bool) {
	request := &http.Request{Method: http.MethodHead, URL: r.endpoint(""), Header: http.Header{}}
	request.URL.Path, request.URL.RawPath = "/", ""
	response, err := r.exchange(ctx, r.conn, request)
	if err != nil {
		return time.Time{}, false
	}
	return response.date()
}

// insecure names what keeps TLS from beginning.
func (r *run) insecure(ctx context.Context, err error) result {
	var record tls.RecordHeaderError
	alert := alertText(err)
	switch {
	case alert == noApplicationProtocol && r.takesHTTP2(ctx):
		return onlyHTTP2("it takes TLS for HTTP/2 alone")
	case errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/":
		return failed("the server speaks plain HTTP", "it responded to TLS with HTTP",
			"have the site serve https at this port, or check ws:// if plain text is meant")
	case errors.As(err, &record):
		return failed("the server does not speak TLS", "", "see that the URL's port is the proxy's")
	case alert != "":
		return failed("the server refuses TLS", alert,
			"see in Caddy's log whether it has a certificate for "+r.URL.Hostname()+"; the site's address must be that name")
	case isTimeout(err):
		return failed("the server does not respond to TLS", "nothing within "+r.Timeout.String(), "see that the URL's port is the proxy's")
	}
	return failed("TLS breaks off", "the server, or something in between, ended the connection",
		"see that the URL's port is the proxy's; a firewall may block the name "+r.URL.Hostname())
}

// alertText returns the alert by which the server ended TLS, empty if it did not.
// crypto/tls has no exported type for it.
func alertText(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return ""
	}
	return strings.TrimPrefix(op.Err.Error(), "tls: ")
}

// onlyHTTP2 is the mistake of a server without HTTP/1.1.
func onlyHTTP2(seen string) result {
	return failed("the server speaks HTTP/2 only", seen,
		"enable HTTP/1.1, as in `protocols h1 h2 h3` of Caddy's servers option: browsers open WebSockets by it").andFinal()
}

func (r *run) takesHTTP2(ctx context.Context) bool {
	conn, err := r.Dial(ctx, "tcp", r.addr.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	secure, err := r.handshakeTLS(ctx, conn, "h2")
	return err == nil && secure.ConnectionState().NegotiatedProtocol == "h2"
}

// names lists the first names of a certificate.
func names(cert *x509.Certificate) string {
	list := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		list = append(list, ip.String())
	}
	const shown = 3
	switch {
	case len(list) == 0:
		return "no name"
	case len(list) > shown:
		return terminal.Printable(strings.Join(list[:shown], ", "), maxText) + fmt.Sprintf(" and %d more", len(list)-shown)
	}
	return terminal.Printable(strings.Join(list, ", "), maxText)
}

func issuer(cert *x509.Certificate) string {
	name := cert.Issuer.CommonName
	if name == "" && len(cert.Issuer.Organization) > 0 {
		name = cert.Issuer.Organization[0]
	}
	if name == "" {
		return "an issuer without a name"
	}
	return terminal.Printable(name, maxText)
}
