package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// resolverDelay is how long a name server has for its answer before the next is asked
// beside it. Go would wait 5 s for it, longer than there is time to connect.
const resolverDelay = 500 * time.Millisecond

// resolvers are who is asked for names: each of the servers that the transport names, or
// the system alone.
type resolvers []*net.Resolver

func resolversOf(t *reverseproxy.HTTPTransport) resolvers {
	if t.Resolver == nil || len(t.Resolver.Addresses) == 0 {
		return resolvers{net.DefaultResolver}
	}
	var all resolvers
	d := &net.Dialer{Timeout: time.Duration(t.DialTimeout), FallbackDelay: time.Duration(t.FallbackDelay)}
	for _, address := range t.Resolver.Addresses {
		server, _ := caddy.ParseNetworkAddressWithDefaults(address, "udp", 53) // the transport has checked it
		all = append(all, &net.Resolver{
			PreferGo: true,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, server.Network, server.JoinHostPort(0))
			},
		})
	}
	return all
}

// lookUp asks one after the other, in an order of chance: the next when the last has failed
// or kept it waiting. The first answer counts, also that there is no such name.
func (all resolvers) lookUp(ctx context.Context, host string) ([]net.IPAddr, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		addrs []net.IPAddr
		err   error
	}
	answers := make(chan answer, len(all)) // has room for those that nobody waits for any more
	order := rand.Perm(len(all))
	next := time.NewTimer(0)
	defer next.Stop()
	for asked, failed := 0, 0; ; {
		select {
		case <-next.C:
			if asked < len(all) {
				resolver := all[order[asked]]
				asked++
				go func() {
					addrs, err := resolver.LookupIPAddr(ctx, host)
					answers <- answer{addrs, err}
				}()
				next.Reset(resolverDelay)
			}
		case a := <-answers:
			if a.err != nil && !isNotFound(a.err) {
				if failed++; failed < len(all) {
					next.Reset(0)
					continue
				}
			}
			return a.addrs, a.err
		}
	}
}

func isNotFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
