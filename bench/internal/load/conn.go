// Package load plays the browsers: many WebSockets that each send a message
// now and then, or a few connections that post as fast as responses come.
package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"time"
)

// Target is where the load goes: one proxy on this machine.
type Target struct {
	Addr string
	TLS  *tls.Config
}

// NewTarget describes a proxy that shows a certificate of the given name.
func NewTarget(addr, serverName string, roots *x509.CertPool) Target {
	return Target{addr, &tls.Config{
		ServerName:       serverName,
		RootCAs:          roots,
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519},
		NextProtos:       []string{"http/1.1"}, // as browsers do for a WebSocket
		// A browser puts a message into one TLS record.
		DynamicRecordSizingDisabled: true,
	}}
}

// lifetime bounds every connection, so that a proxy that goes silent ends the
// run instead of hanging it.
const lifetime = 15 * time.Minute

func (t Target) dial(ctx context.Context) (net.Conn, error) {
	host, _, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return nil, err
	}
	if !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("%s is not on this machine", t.Addr)
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}, Config: t.TLS}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second) // the SDK's patience
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(lifetime))
}

// newReader is large enough for the head of any proxy's response.
func newReader(conn net.Conn) *bufio.Reader { return bufio.NewReaderSize(conn, 2<<10) }

// epoch is what the times in messages count from.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }
