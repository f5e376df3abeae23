package top

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

// TestRates: what is per second, and what nothing is known of.
func TestRates(t *testing.T) {
	at := func(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }
	poll := func(seconds float64, uptime int64, opened, failed, closed, bytes uint64) *sample {
		s := &sample{at: at(seconds), totals: &totals{at: at(seconds), toRelay: carried{bytes, bytes / 100}}}
		s.status.UptimeSeconds = uptime
		s.status.Upstreams = []adminapi.Upstream{
			{Name: "a", OpenedTotal: opened, HandshakeFailuresTotal: failed, ClosedTotal: closed},
			{Name: "b", OpenedTotal: 10, HandshakeFailuresTotal: 10, ClosedTotal: 10},
		}
		return s
	}
	for name, test := range map[string]struct {
		before, now *sample
		want        string
	}{
		"none before": {nil, poll(2, 2, 5, 5, 5, 500),
			`{"opened":null,"failed":null,"closed":null,"frames_to_relay":null,"frames_to_client":null,"bytes_to_relay":null,"bytes_to_client":null}`},
		"2 seconds": {poll(0, 10, 5, 5, 5, 500), poll(2, 12, 15, 6, 5, 1500),
			`{"opened":5,"failed":0.5,"closed":0,"frames_to_relay":5,"frames_to_client":0,"bytes_to_relay":500,"bytes_to_client":0}`},
		"a pause": {poll(0, 10, 0, 0, 0, 0), poll(30, 40, 10, 0, 5, 300),
			`{"opened":0.333,"failed":0,"closed":0.167,"frames_to_relay":0.1,"frames_to_client":0,"bytes_to_relay":10,"bytes_to_client":0}`},
		"restarted": {poll(0, 10, 0, 0, 0, 0), poll(2, 1, 10, 10, 10, 100),
			`{"opened":null,"failed":null,"closed":null,"frames_to_relay":null,"frames_to_client":null,"bytes_to_relay":null,"bytes_to_client":null}`},
		"gone back": {poll(0, 10, 9, 0, 0, 0), poll(2, 12, 8, 10, 10, 0),
			`{"opened":null,"failed":5,"closed":5,"frames_to_relay":0,"frames_to_client":0,"bytes_to_relay":0,"bytes_to_client":0}`},
		"no metrics": {&sample{at: at(0)}, &sample{at: at(2)},
			`{"opened":0,"failed":0,"closed":0,"frames_to_relay":null,"frames_to_client":null,"bytes_to_relay":null,"bytes_to_client":null}`},
	} {
		got, err := json.Marshal(newReport(address, test.before, test.now).Rates)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: %v\n%s, want\n%s", name, err, got, test.want)
		}
	}
}

// TestBusiest: by what was carried between the polls, new tunnels from nothing.
func TestBusiest(t *testing.T) {
	carried := func(id, bytes uint64, opened float64) adminapi.Tunnel {
		return adminapi.Tunnel{ID: id, BytesToClient: bytes, FramesToRelay: bytes / 10, Opened: noon.Add(time.Duration(opened * float64(time.Second)))}
	}
	before := &sample{at: noon, carried: []adminapi.Tunnel{carried(1, 1000, -9), carried(2, 500, -9)}}
	now := &sample{at: noon.Add(2 * time.Second), carried: []adminapi.Tunnel{
		carried(1, 1000, -9), carried(2, 900, -9), carried(3, 600, 1), carried(4, 50, -5)}}
	r := newReport(address, before, now)
	got, err := json.Marshal(r.Busiest)
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		ID     uint64
		Bytes  *float64 `json:"bytes_per_second"`
		Frames *float64 `json:"frames_per_second"`
	}
	if err := json.Unmarshal(got, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 4 || list[0].ID != 3 || *list[0].Bytes != 300 || *list[0].Frames != 30 || list[1].ID != 2 || *list[1].Bytes != 200 ||
		list[2].ID != 1 || *list[2].Bytes != 0 || list[3].ID != 4 || list[3].Bytes != nil {
		t.Errorf("%s", got)
	}
	if r.first(1); len(r.Busiest) != 1 || len(r.Idle) != 0 {
		t.Errorf("%+v", r)
	}
}

// TestUpdate: the history has a gap where nothing is known, and an end.
func TestUpdate(t *testing.T) {
	m := watched(asciiSet, 3, nil)
	m.update(address, nil, errors.New("gone"), noon)
	if text, most := asciiSet.sparkline(m.past[tunnels], 10); m.gone == nil || text != "### " || most != 1236 {
		t.Errorf("%v, %q, %v", m.gone, text, most)
	}
	// Rates go on from the poll before the gap.
	m.update(address, sampled(5), nil, noon)
	if r := m.report; m.gone != nil || r.IntervalSeconds != 6 || r.Rates.Opened != 12.5 {
		t.Errorf("%v, %+v", m.gone, r)
	}
	for range 2 * historyLength {
		m.update(address, nil, errors.New("gone"), noon)
	}
	if n := len(m.past[tunnels]); n != historyLength {
		t.Errorf("%d polls are kept", n)
	}
}

func TestLately(t *testing.T) {
	page := func(n, up int) *sample {
		s := sampled(n)
		s.status.UptimeSeconds = int64(up)
		s.totals.closes = map[ending]uint64{{"client", "1001"}: uint64(n)}
		return s
	}
	m := new(model)
	c := closes{By: "client", Code: "1001"}
	for _, step := range []struct {
		n, up int
		want  uint64
	}{{100, 50, 0}, {103, 52, 3}, {110, 54, 10}, {4, 1, 4}, {6, 3, 6}} {
		m.update(address, page(step.n, step.up), nil, noon)
		if c.Total = uint64(step.n); m.lately(c) != step.want {
			t.Errorf("%d closes: %d lately, want %d", step.n, m.lately(c), step.want)
		}
	}
}

func TestParseTotals(t *testing.T) {
	got := parseTotals(`# HELP caddy_watchrtc_proxy_bytes_total Bytes.
# TYPE caddy_watchrtc_proxy_bytes_total counter
caddy_watchrtc_proxy_bytes_total{direction="to_relay",upstream="wss://a"} 1.3745767e+07
caddy_watchrtc_proxy_bytes_total{direction="to_relay",upstream="wss://b"} 3
caddy_watchrtc_proxy_bytes_total{direction="to_client",upstream="wss://b"} 4
caddy_watchrtc_proxy_frames_total{upstream="wss://b",direction="to_relay"} 5
caddy_watchrtc_proxy_frames_total{upstream="wss://b",direction="to_client"} 6
caddy_watchrtc_proxy_tunnels_closed_total{by="client",code="1006",upstream="wss://a"} 7
caddy_watchrtc_proxy_tunnels_closed_total{by="client",code="1006",upstream="wss://b"} 8
caddy_watchrtc_proxy_tunnels_closed_total{by="relay",code="other",upstream="wss://b"} 0
caddy_watchrtc_proxy_rejected_total{reason="loop"} 9
caddy_watchrtc_proxy_max_tunnels 10
caddy_watchrtc_proxy_frames_total{upstream="wss://b",direction="to_client"} NaN
caddy_watchrtc_proxy_frames_total{upstream="wss://b",direction="to_client"} -1
caddy_watchrtc_proxy_frames_total{upstream="wss://b",direction="to_client"} 1e300
caddy_watchrtc_proxy_frames_total{upstream
other_bytes_total{direction="to_relay"} 11
`, noon)
	if got.toRelay != (carried{13745770, 5}) || got.toClient != (carried{4, 6}) || len(got.closes) != 1 || got.closes[ending{"client", "1006"}] != 15 ||
		len(got.rejected) != 1 || got.rejected["loop"] != 9 {
		t.Errorf("%+v", got)
	}
}

func TestText(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{age(-time.Second), "0s"},
		{age(59 * time.Second), "59s"},
		{age(60 * time.Second), "1m00s"},
		{age(3*time.Hour + 4*time.Minute), "3h04m"},
		{age(50 * time.Hour), "2d02h"},
		{decimal(0), "0"},
		{decimal(0.04), "0.0"},
		{decimal(99.94), "99.9"},
		{decimal(99.96), "100"},
		{decimal(12345.6), "12,346"},
		{decimal(unknown), "-"},
		{whole(1234567), "1,234,567"},
		{whole(unknown), "-"},
		{size(999), "999 B"},
		{size(1500), "1.5 kB"},
		{size(unknown), "-"},
		{asciiSet.bar(0, 0, 4), "####"},
		{asciiSet.bar(-1, 10, 4), "...."},
		{asciiSet.bar(5, 10, 4), "##.."},
		{asciiSet.bar(50, 10, 4), "####"},
		{unicodeSet.fit("abcdef", 4), "abc…"},
		{asciiSet.fit("abcdef", 4), "abc~"},
		{asciiSet.fit("abc", 4), "abc "},
		{right("abc", 2), "abc"},
		{clean("a\x1b[2J\u202e\xffé"), "a?[2J???"},
		{line{{"ab", plain}, {"cd", bad}}.cut(3).String(), "abc"},
		{line{{"▁▁", plain}}.cut(1).String(), "▁"},
	} {
		if test.got != test.want {
			t.Errorf("%q, want %q", test.got, test.want)
		}
	}
	for _, test := range []struct {
		values []rate
		width  int
		want   string
	}{
		{nil, 5, ""},
		{[]rate{1, 2}, 0, ""},
		{[]rate{1, 2}, -1, ""},
		{[]rate{0, 0.001, 4, 8, unknown, 2}, 10, "▁▂▅█ ▃"},
		{[]rate{99, 0, 1}, 2, "▁█"},
		{[]rate{0, 0}, 2, "▁▁"},
	} {
		if got, _ := unicodeSet.sparkline(test.values, test.width); got != test.want {
			t.Errorf("%v in %d: %q, want %q", test.values, test.width, got, test.want)
		}
	}
}

func TestLocale(t *testing.T) {
	for _, test := range []struct {
		all, ctype, lang string
		unicode          bool
	}{
		{"", "", "en_US.UTF-8", true},
		{"", "C.utf8", "C", true},
		{"C", "", "en_US.UTF-8", false},
		{"", "", "de_DE@euro", false},
		{"POSIX", "", "", false},
		{"", "", "", false},
	} {
		t.Setenv("LC_ALL", test.all)
		t.Setenv("LC_CTYPE", test.ctype)
		t.Setenv("LANG", test.lang)
		if got := localeCharset().done == unicodeSet.done; got != test.unicode {
			t.Errorf("%+v: Unicode %t", test, got)
		}
	}
}
