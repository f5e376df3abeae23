package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/load"
)

// TestMain also runs in the processes that startVictim starts and kills.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "endpoint" {
		if err := runVictim(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// TestNothingLostByTheYard ends tunnels in every way over what loses nothing: a plain
// connection, and one that is copied. So whatever is lost in a run was lost by the
// proxy.
func TestNothingLostByTheYard(t *testing.T) {
	certs, err := contestant.MakeCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	certs.Relay = certs.Proxy // Nothing ends the TLS in between.
	for _, between := range []struct {
		name string
		open func(*testing.T, *opener)
	}{
		{"connected", func(t *testing.T, o *opener) { o.proxy = o.relay.Addr().String() }},
		{"copied", func(t *testing.T, o *opener) { o.proxy = startCopying(t, o.relay.Addr().String()) }},
	} {
		t.Run(between.name, func(t *testing.T) {
			ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			o := &opener{lab: &contestant.Lab{Certs: certs}, relay: ln}
			between.open(t, o)
			tally := newTally(between.name, false)
			var running sync.WaitGroup
			for id := range 2 * len(ways) {
				tunnel := newTunnel(id, 1)
				if err := o.open(tunnel); err != nil {
					t.Fatal(err)
				}
				running.Go(func() { tally.add(tunnel, tunnel.run()) })
			}
			running.Wait()
			var sum lossResult
			for _, r := range tally.results() {
				// In the middle only bytes are seen, so a FIN is a FIN.
				if r.WithLoss+r.Closes+r.Damaged+r.Resets+r.Hung > 0 {
					t.Errorf("%s by the %s: %s", r.Way, r.By, r.fault())
				}
				sum = sum.plus(r)
			}
			if sum.Tunnels != 2*len(ways) || sum.Accepted < mostUpload {
				t.Errorf("%d tunnels, %d bytes", sum.Tunnels, sum.Accepted)
			}
		})
	}
}

// startCopying accepts connections and copies each direction to the end.
func startCopying(t *testing.T, to string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				return
			}
			running.Go(func() {
				var both sync.WaitGroup
				both.Go(func() { copyToEnd(b.(*net.TCPConn), a) })
				both.Go(func() { copyToEnd(a.(*net.TCPConn), b) })
				both.Wait()
				a.Close()
				b.Close()
			})
		}
	})
	return ln.Addr().String()
}

// copyToEnd resets what it has written to once all has arrived there, if the
// source was reset. It reads on when nobody takes it any more: to close a
// connection with something unread throws away what is still to be sent.
func copyToEnd(to *net.TCPConn, from net.Conn) {
	b := make([]byte, 64<<10)
	l := &ledger{TCPConn: to}
	var failed error
	for {
		n, err := from.Read(b)
		if failed == nil {
			_, failed = l.Write(b[:n])
		}
		if err == io.EOF {
			_ = to.CloseWrite()
			return
		}
		if err == nil {
			continue
		}
		for deadline := time.Now().Add(linger); failed == nil && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if wire, err := l.acknowledged(); err != nil || wire == l.written.Load() {
				break
			}
		}
		_ = to.SetLinger(0)
		_ = to.Close()
		return
	}
}

func TestPayloadAt(t *testing.T) {
	entries := []entry{{120, 100}, {250, 200}, {250, 210}, {400, 300}}
	for wire, want := range map[int64]int64{0: 0, 119: 0, 120: 100, 249: 100, 250: 210, 399: 210, 400: 300, 9999: 300} {
		if got := payloadAt(entries, wire); got != want {
			t.Errorf("%d bytes on the wire hold %d, not %d", wire, got, want)
		}
	}
}

func TestRecords(t *testing.T) {
	stream := []byte{23, 3, 3, 0, 4, 1, 2, 3, 4, 23, 3, 3, 0, 19}
	stream = append(stream, make([]byte, 19)...)
	for cut := range stream {
		var r records
		r.add(stream[:cut])
		if r.closeNotify() {
			t.Errorf("an alert was seen in the first %d bytes", cut)
		}
		r.add(stream[cut:])
		if !r.closeNotify() {
			t.Errorf("cut at %d, no alert was seen", cut)
		}
	}
}

func TestSumUpCountsWhatWasHeldUp(t *testing.T) {
	r := sumUp([]load.Trips{{Times: []time.Duration{time.Millisecond, 4 * quietPeriod}}, {Times: []time.Duration{2 * prompt}}})
	if r.Trips != 3 || r.Served != 1 || r.Worst != 2000 || r.P99 < 1900 {
		t.Errorf("%+v", r)
	}
}
