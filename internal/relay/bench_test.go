package relay

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkDial is what finding addresses costs, beside connecting itself: with a name of
// one address, whose lookup costs nothing here, and without a name.
func BenchmarkDial(b *testing.B) {
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	addrs := addrsOf("10.0.0.1")
	d := &dialer{
		connect: func(context.Context, string, string) (net.Conn, error) { return one, nil },
		lookups: &lookups{
			lookUp: func(string) ([]netip.Addr, error) { return addrs, nil },
			delay:  connectDelay, failDuration: 10 * time.Second,
		},
	}
	for _, address := range []string{"10.0.0.1:443", "relay.example:443"} {
		b.Run(address, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.dial(b.Context(), "tcp", address); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
