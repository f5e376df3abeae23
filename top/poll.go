package top

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

const (
	interval = 2 * time.Second // from one poll to the next, at least
	patience = 5 * time.Second // for each response
)

// How many tunnels are asked for. The busiest are looked for among those that have
// carried most, as the admin API knows totals and no rates.
const (
	mostCarried = adminapi.MaxLimit
	longestIdle = adminapi.DefaultLimit
)

// sample is what one poll brings.
type sample struct {
	at      time.Time // of the status
	status  adminapi.Status
	totals  *totals           // nil if there are no metrics
	carried []adminapi.Tunnel // those that have carried most, most first
	idle    []adminapi.Tunnel // longest first
}

// isOther reports whether Caddy has been restarted since the sample before, so that its
// counters have begun again.
func (s *sample) isOther(before *sample) bool {
	return before != nil && s.status.UptimeSeconds < before.status.UptimeSeconds
}

// newClient parses an address as Caddy's own commands take it.
func newClient(address string) (*adminapi.Client, error) {
	wrong := func(why any) error {
		return fmt.Errorf("address %q: want host:port, or unix//path: %v", address, why)
	}
	if strings.Contains(address, "://") {
		return nil, wrong("it is no URL")
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	switch {
	case err != nil:
		return nil, wrong(err)
	case parsed.IsUnixNetwork():
		path, _, _ := strings.Cut(parsed.Host, "|") // permissions follow, for who listens
		return adminapi.NewClient(parsed.Network, path, "127.0.0.1", patience), nil
	case parsed.Network != "tcp" && parsed.Network != "tcp4" && parsed.Network != "tcp6":
		return nil, wrong("no network " + parsed.Network)
	case parsed.PortRangeSize() != 1 || parsed.StartPort == 0:
		return nil, wrong("it needs one port")
	}
	dialed := parsed.JoinHostPort(0)
	host := dialed
	if parsed.Host == "" { // all interfaces, for who listens
		host = net.JoinHostPort("localhost", fmt.Sprint(parsed.StartPort))
		dialed = host
	}
	return adminapi.NewClient(parsed.Network, dialed, host, patience), nil
}

// poll asks for everything once.
func poll(ctx context.Context, client *adminapi.Client) (*sample, error) {
	s := new(sample)
	var err error
	if s.status, err = client.Status(ctx); err != nil {
		return nil, err
	}
	s.at = time.Now()
	carried, err := client.Tunnels(ctx, adminapi.SortBytes, mostCarried)
	if err != nil {
		return nil, err
	}
	idle, err := client.Tunnels(ctx, adminapi.SortIdle, longestIdle)
	if err != nil {
		return nil, err
	}
	s.carried, s.idle = carried.Tunnels, idle.Tunnels
	page, err := client.Metrics(ctx)
	if errors.Is(err, adminapi.ErrNotFound) {
		return s, nil // a Caddy without that module
	}
	if err != nil {
		return nil, err
	}
	s.totals = parseTotals(string(page), time.Now())
	return s, nil
}
