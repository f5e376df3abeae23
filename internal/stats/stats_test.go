package stats

import (
	"maps"
	"testing"
	"time"
)

func newTotals() *Totals {
	return New(Labels{
		Stages: []string{"dns", "status"}, Closers: []string{"client", "relay"},
		Endpoints: []string{"trace"}, Reasons: []string{"body"},
	})
}

func TestHandshakes(t *testing.T) {
	u := newTotals().Upstream("wss://relay.test")
	first, second := u.BeginHandshake(), u.BeginHandshake()
	if n := u.HandshakesInFlight(); n != 2 {
		t.Errorf("%d handshakes are under way", n)
	}
	first.Opened()
	second.Failed("status")
	if n := u.HandshakesInFlight(); n != 0 {
		t.Errorf("%d handshakes are under way", n)
	}
	if !maps.Equal(u.HandshakeFailures(), map[string]uint64{"dns": 0, "status": 1}) || u.TunnelsOpened() != 1 || u.HandshakeTimes().Count != 1 {
		t.Errorf("failures %v, %d opened, times %+v", u.HandshakeFailures(), u.TunnelsOpened(), u.HandshakeTimes())
	}
}

// What a peer chooses is no label.
func TestLabelsAreBounded(t *testing.T) {
	totals := newTotals()
	u := totals.Upstream("wss://relay.test")
	labels := len(u.TunnelsClosed())
	for code := range 5000 {
		u.Closed("client", code, time.Second)
	}
	closed := u.TunnelsClosed()
	if len(closed) != labels || labels != 2*(len(registered)+1) || Sum(closed) != 5000 {
		t.Errorf("%d ways to close, then %d, of %d tunnels", labels, len(closed), Sum(closed))
	}
	if closed[Close{"client", "1006"}] != 1 || closed[Close{"client", OtherCode}] != uint64(5000-len(registered)) {
		t.Error(closed)
	}
	totals.Reject("because")
	if !maps.Equal(totals.Rejected(), map[string]uint64{"body": 0}) {
		t.Error(totals.Rejected())
	}
}

func TestResponses(t *testing.T) {
	u := newTotals().Upstream("wss://relay.test")
	for _, status := range []int{200, 299, 302, 404, 499, 500, 599, 600, 999, 150} {
		u.Responded("trace", status)
	}
	want := map[Request]uint64{{"trace", "2xx"}: 2, {"trace", "3xx"}: 1, {"trace", "4xx"}: 2, {"trace", "5xx"}: 5}
	if got := u.Requests(); !maps.Equal(got, want) {
		t.Error(got)
	}
}

func TestDistribution(t *testing.T) {
	u := newTotals().Upstream("wss://relay.test")
	for _, d := range []time.Duration{0, 5 * time.Millisecond, 6 * time.Millisecond, 15 * time.Second, time.Minute} {
		u.ResponseTook(d)
	}
	d := u.ResponseTimes()
	if d.Count != 5 || d.Sum != 75.011 || d.Buckets[.005] != 2 || d.Buckets[.01] != 3 || d.Buckets[10] != 3 || d.Buckets[15] != 4 {
		t.Errorf("%+v", d)
	}
}

func TestHealth(t *testing.T) {
	u := newTotals().Upstream("wss://relay.test")
	if !u.Up() || u.LastFailure() != nil {
		t.Error("an upstream that nobody has asked is down")
	}
	if _, wasDown := u.Respond(); wasDown {
		t.Error("it was down")
	}
	u.Fail(Failure{Stage: "status"}, false)
	if !u.Up() {
		t.Error("a relay that responds is down")
	}
	u.Fail(Failure{Stage: "dns", Time: time.Now()}, true)
	u.Fail(Failure{Stage: "status"}, false)
	if u.Up() || u.LastFailure().Stage != "status" {
		t.Errorf("up %v, %+v", u.Up(), u.LastFailure())
	}
	if outage, wasDown := u.Respond(); !wasDown || outage.Failures != 2 || !u.Up() {
		t.Errorf("%v, %+v", wasDown, outage)
	}
}

func TestUpstreams(t *testing.T) {
	totals := newTotals()
	b, a := totals.Upstream("b"), totals.Upstream("a")
	if all := totals.Upstreams(); len(all) != 2 || all[0] != a || all[1] != b || totals.Upstream("b") != b {
		t.Errorf("%v", all)
	}
	if a.SetCertificateEnd(time.Time{}); a.CertificateEnd() != 0 {
		t.Error("the zero time is an end")
	}
	if a.SetCertificateEnd(time.Unix(5, 0)); a.CertificateEnd() != 5 {
		t.Error("no end")
	}
}
