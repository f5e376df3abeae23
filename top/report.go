package top

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

// report is what a poll tells, with that before it. It is what --json writes;
// docs/top.md describes it.
type report struct {
	Time    time.Time `json:"time"`
	Address string    `json:"address"`
	adminapi.Status
	IntervalSeconds float64           `json:"interval_seconds"` // what rates are over; 0 without a poll before
	Rates           rates             `json:"rates"`
	Closes          []closes          `json:"closes"`   // most first; null without metrics
	Rejected        []rejected        `json:"rejected"` // likewise
	Busiest         []tunnel          `json:"busiest"`  // most bytes a second first
	Idle            []adminapi.Tunnel `json:"idle"`     // longest first
}

// rates are those of all upstreams together.
type rates struct {
	Opened         rate `json:"opened"`
	Failed         rate `json:"failed"` // handshakes
	Closed         rate `json:"closed"`
	FramesToRelay  rate `json:"frames_to_relay"`
	FramesToClient rate `json:"frames_to_client"`
	BytesToRelay   rate `json:"bytes_to_relay"`
	BytesToClient  rate `json:"bytes_to_client"`
}

// closes are tunnels that have ended in one way.
type closes struct {
	By    string `json:"by"`
	Code  string `json:"code"`
	Total uint64 `json:"total"`
}

// rejected are requests that were refused for one reason.
type rejected struct {
	Reason string `json:"reason"`
	Total  uint64 `json:"total"`
}

// tunnel is one with how busy it is, both ways together.
type tunnel struct {
	adminapi.Tunnel
	BytesPerSecond  rate `json:"bytes_per_second"`
	FramesPerSecond rate `json:"frames_per_second"`
}

// rate is per second, and unknown where there is nothing to compare with.
type rate float64

var unknown = rate(math.NaN())

func (r rate) known() bool { return !math.IsNaN(float64(r)) }

// MarshalJSON writes null for what is unknown.
func (r rate) MarshalJSON() ([]byte, error) {
	if !r.known() {
		return []byte("null"), nil
	}
	return json.Marshal(math.Round(float64(r)*1000) / 1000)
}

// per returns how fast a counter has grown. A counter that has gone back is another
// process's.
func per(d time.Duration, before, now uint64) rate {
	if d <= 0 || now < before {
		return unknown
	}
	return rate(float64(now-before) / d.Seconds())
}

// newReport compares a poll with that before it, nil if there is none.
func newReport(address string, before *sample, now *sample) *report {
	r := &report{
		Time: now.at, Address: address, Status: now.status,
		Rates: rates{unknown, unknown, unknown, unknown, unknown, unknown, unknown},
		Idle:  now.idle,
	}
	if t := now.totals; t != nil {
		r.Closes, r.Rejected = listCloses(t), listRejected(t)
	}
	if now.isOther(before) {
		before = nil
	}
	if before != nil {
		r.IntervalSeconds = math.Round(now.at.Sub(before.at).Seconds()*1000) / 1000
		r.Rates = compare(before, now)
	}
	r.Busiest = busiest(before, now)
	return r
}

func compare(before, now *sample) rates {
	was, is := before.status.Upstreams, now.status.Upstreams
	d := now.at.Sub(before.at)
	r := rates{
		Opened:        per(d, sum(was, opened), sum(is, opened)),
		Failed:        per(d, sum(was, failed), sum(is, failed)),
		Closed:        per(d, sum(was, closed), sum(is, closed)),
		FramesToRelay: unknown, FramesToClient: unknown, BytesToRelay: unknown, BytesToClient: unknown,
	}
	if t, u := before.totals, now.totals; t != nil && u != nil {
		d := u.at.Sub(t.at)
		r.FramesToRelay = per(d, t.toRelay.frames, u.toRelay.frames)
		r.FramesToClient = per(d, t.toClient.frames, u.toClient.frames)
		r.BytesToRelay = per(d, t.toRelay.bytes, u.toRelay.bytes)
		r.BytesToClient = per(d, t.toClient.bytes, u.toClient.bytes)
	}
	return r
}

func opened(u adminapi.Upstream) uint64 { return u.OpenedTotal }
func closed(u adminapi.Upstream) uint64 { return u.ClosedTotal }
func failed(u adminapi.Upstream) uint64 { return u.HandshakeFailuresTotal }

func sum(upstreams []adminapi.Upstream, counter func(adminapi.Upstream) uint64) (total uint64) {
	for _, u := range upstreams {
		total += counter(u)
	}
	return total
}

func listCloses(t *totals) []closes {
	list := make([]closes, 0, len(t.closes))
	for e, n := range t.closes {
		list = append(list, closes{e.by, e.code, n})
	}
	slices.SortFunc(list, func(a, b closes) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.By, b.By), cmp.Compare(a.Code, b.Code))
	})
	return list
}

func listRejected(t *totals) []rejected {
	list := make([]rejected, 0, len(t.rejected))
	for reason, n := range t.rejected {
		list = append(list, rejected{reason, n})
	}
	slices.SortFunc(list, func(a, b rejected) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Reason, b.Reason))
	})
	return list
}

// busiest has the tunnels that were busiest since the poll before, and then those
// of which that is unknown.
func busiest(before, now *sample) []tunnel {
	was := make(map[uint64]adminapi.Tunnel)
	var d time.Duration
	if before != nil {
		d = now.at.Sub(before.at)
		for _, t := range before.carried {
			was[t.ID] = t
		}
	}
	list := make([]tunnel, 0, len(now.carried))
	for _, t := range now.carried {
		b, known := was[t.ID]
		if !known && before != nil && t.Opened.After(before.at) {
			known = true // from nothing
		}
		busy := tunnel{t, unknown, unknown}
		if known {
			busy.BytesPerSecond = per(d, b.BytesToRelay+b.BytesToClient, t.BytesToRelay+t.BytesToClient)
			busy.FramesPerSecond = per(d, b.FramesToRelay+b.FramesToClient, t.FramesToRelay+t.FramesToClient)
		}
		list = append(list, busy)
	}
	slices.SortStableFunc(list, func(a, b tunnel) int { return cmp.Compare(b.order(), a.order()) })
	return list
}

// order is what sorts by rate, what is unknown last.
func (t tunnel) order() float64 {
	if !t.BytesPerSecond.known() {
		return -1
	}
	return float64(t.BytesPerSecond)
}

// first cuts the lists of tunnels to n each.
func (r *report) first(n int) {
	r.Busiest = r.Busiest[:min(n, len(r.Busiest))]
	r.Idle = r.Idle[:min(n, len(r.Idle))]
}
