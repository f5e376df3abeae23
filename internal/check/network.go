package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxAddresses is how many addresses of a name are tried.
const maxAddresses = 16

func (r *run) resolve(ctx context.Context) result {
	host := r.URL.Hostname()
	if addr, err := netip.ParseAddr(host); err == nil {
		r.addrs = []netip.AddrPort{netip.AddrPortFrom(addr, r.port())}
		return notTested(host+" is an address", "")
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout/3)
	defer cancel()
	addrs, err := r.Lookup(ctx, host)
	if err != nil || len(addrs) == 0 {
		return r.unresolved(host, err)
	}
	var shown []string
	for _, addr := range addrs[:min(len(addrs), maxAddresses)] {
		r.addrs = append(r.addrs, netip.AddrPortFrom(addr.Unmap(), r.port()))
		shown = append(shown, addr.Unmap().String())
	}
	if more := len(addrs) - maxAddresses; more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more, which are not tried", more))
	}
	return passed(strings.Join(shown, ", "))
}

func (r *run) unresolved(host string, err error) result {
	var dns *net.DNSError
	switch {
	case err == nil, errors.As(err, &dns) && dns.IsNotFound:
		return failed("the name is not found", host+" has no address",
			"give "+host+" an A or AAAA record that leads to the proxy, or correct the name in the URL").andFinal()
	case isTimeout(err):
		return failed("the name's servers do not respond", host, "try again; then look at this computer's resolver").andFinal()
	}
	return failed("the name cannot be resolved", host, "look at this computer's resolver").andFinal()
}

// connectAll connects to all addresses at once, and keeps the first of them, in their
// order, that can be connected to.
func (r *run) connectAll(ctx context.Context) {
	if r.needs != "" {
		r.step(ctx, StepConnect, nil)
		return
	}
	r.Watch(Step{Name: StepConnect})
	ctx, cancel := context.WithTimeout(ctx, r.Timeout/3)
	defer cancel()
	type attempt struct {
		conn net.Conn
		err  error
		took time.Duration
	}
	attempts := make([]attempt, len(r.addrs))
	var dialing sync.WaitGroup
	for i, addr := range r.addrs {
		dialing.Go(func() {
			began := time.Now()
			conn, err := r.Dial(ctx, "tcp", addr.String())
			attempts[i] = attempt{conn, err, time.Since(began)}
		})
	}
	dialing.Wait()
	for i, attempt := range attempts {
		switch {
		case attempt.err != nil:
			r.add(StepConnect, r.unconnected(r.addrs[i], attempt.err), attempt.took)
			continue
		case r.conn == nil:
			r.conn, r.addr = attempt.conn, r.addrs[i]
		default:
			attempt.conn.Close()
		}
		r.add(StepConnect, passed(r.addrs[i].String()), attempt.took)
	}
	if r.conn == nil {
		r.needs = StepConnect
	}
}

func (r *run) unconnected(addr netip.AddrPort, err error) result {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return failed("nothing listens at the address", addr.String()+" refuses connections",
			fmt.Sprintf("see that Caddy runs there and listens on port %d, and that the name leads to it", addr.Port()))
	case isTimeout(err):
		return failed("the address does not respond", addr.String(),
			fmt.Sprintf("open port %d in the firewalls in front of the proxy, and see that the name leads to it", addr.Port()))
	case addr.Addr().Is6() && (errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
		return notTested(addr.String()+": this computer has no IPv6", "check it from a computer that has IPv6")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return failed("there is no route to the address", addr.String(), "see that the name leads to the proxy, and look at the network in between")
	}
	return failed("the address cannot be connected to", addr.String(), "see that the name leads to the proxy, and look at the network in between")
}

// redial connects once more to the address that was connected to, with TLS where the
// URL has it. Whatever is sent there may hold the key, so the certificate is verified
// each time.
func (r *run) redial(ctx context.Context) (net.Conn, error) {
	conn, err := r.Dial(ctx, "tcp", r.addr.String())
	if err != nil || r.URL.Scheme != "wss" {
		return conn, err
	}
	secure, err := r.handshakeTLS(ctx, conn, "http/1.1")
	if err == nil && !r.Insecure {
		err = r.verify(secure.ConnectionState().PeerCertificates)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}
