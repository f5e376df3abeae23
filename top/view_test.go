package top

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

var update = flag.Bool("update", false, "write testdata/*.golden")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const address = "localhost:2019"

// sampled is a poll of a busy proxy, n intervals after noon.
func sampled(n int) *sample {
	at := noon.Add(time.Duration(n) * interval)
	u := uint64(n)
	s := &sample{at: at}
	s.status = adminapi.Status{
		Version: "v1.2.3", UptimeSeconds: 93784 + int64(n)*2, Engine: "event_loops", Tunnels: 1234 + n, Handshakes: 3,
		Upstreams: []adminapi.Upstream{
			{Name: "wss://old.example", OpenedTotal: 7, ClosedTotal: 7, Up: true},
			{Name: "wss://watchrtc.testrtc.com", Configured: true, Up: true, Tunnels: 1234 + n, OpenedTotal: 123456 + 25*u, ClosedTotal: 122222 + 24*u},
			{Name: "wss://relay.example:8443/a/base/path/that/is/long", Configured: true, HandshakeFailuresTotal: 40 + u*u/9,
				LastFailure: &adminapi.Failure{Time: at.Add(-12 * time.Second), Stage: "dns", Error: "looking up relay.example: no such host"}},
		},
	}
	s.totals = &totals{
		at:      at,
		toRelay: carried{5e9 + u*u*1e6, 1e6 + 2400*u}, toClient: carried{4e7 + 9000*u, 5e5 + 31*u},
		closes:   map[ending]uint64{{"client", "1001"}: 120000 + 20*u, {"client", "1006"}: 2000 + 3*u, {"relay", "1006"}: 200, {"proxy", "1001"}: 22 + u},
		rejected: map[string]uint64{"handshake": 12, "origin": 1500},
	}
	for i := range uint64(120) {
		s.carried = append(s.carried, adminapi.Tunnel{
			ID: 9000 + i, ClientIP: fmt.Sprint("192.0.2.", i), SessionID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", i),
			Opened: noon.Add(-time.Duration(i+1) * 97 * time.Second), BytesToRelay: (120-i)*1e6 + u*(i%7)*5000, FramesToRelay: 10*i + u*(i%7),
		})
	}
	s.carried[2].ClientIP = "2001:db8:1234:5678:9abc:def0:1234:5678"
	s.carried[3].SessionID = "\x1b[2J\u202e\nno terminal's command, \u00e9"
	for i := range 60 {
		t := s.carried[119-i]
		t.IdleSeconds = float64(560-i) + 2*float64(n)
		s.idle = append(s.idle, t)
	}
	return s
}

// watched is a model after so many polls. change may alter the last.
func watched(c charset, polls int, change func(*sample)) *model {
	m := &model{charset: c}
	for n := range polls {
		s := sampled(n)
		if change != nil && n == polls-1 {
			change(s)
		}
		m.update(address, s, nil, s.at)
	}
	return m
}

func draining(s *sample) {
	s.status.Upstreams[0] = adminapi.Upstream{Name: "wss://old.example", Up: true, Draining: true, Tunnels: 30, OpenedTotal: 7}
	s.status.Drains = []adminapi.Drain{
		{Upstream: "wss://old.example", Total: 40, Left: 30, Ends: s.at.Add(15 * time.Second)},
		{ID: 4, Total: 500, Left: 2, Ends: s.at.Add(-time.Second)},
	}
}

// models are what the view can have to show.
var models = map[string]func(charset) *model{
	"busy":  func(c charset) *model { return watched(c, 25, nil) },
	"first": func(c charset) *model { return watched(c, 1, nil) },
	"drain": func(c charset) *model { return watched(c, 25, draining) },
	"idle": func(c charset) *model {
		return watched(c, 5, func(s *sample) {
			s.status = adminapi.Status{Version: "v1.2.3", Engine: "goroutines", Upstreams: s.status.Upstreams[1:2], UptimeSeconds: s.status.UptimeSeconds}
			s.carried, s.idle, s.totals = nil, nil, &totals{at: s.at}
		})
	},
	"stopping": func(c charset) *model { return watched(c, 3, func(s *sample) { s.status.Stopping = true }) },
	"without metrics": func(c charset) *model {
		m := &model{charset: c}
		for n := range 4 {
			s := sampled(n)
			s.totals = nil
			m.update(address, s, nil, s.at)
		}
		return m
	},
	"gone": func(c charset) *model {
		m := watched(c, 25, draining)
		for n := range 3 {
			m.update(address, nil, errors.New("nothing listens at localhost:2019: is Caddy running?"), noon.Add(time.Duration(25+n)*interval))
		}
		m.paused = true
		return m
	},
	"restarted": func(c charset) *model {
		return watched(c, 25, func(s *sample) {
			s.status.UptimeSeconds = 1
			s.status.Upstreams[1].OpenedTotal = 3
			s.totals = &totals{at: s.at, closes: map[ending]uint64{{"client", "1001"}: 2}}
		})
	},
}

func text(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	return b.String()
}

// TestView compares with what was looked at and found good.
func TestView(t *testing.T) {
	for name, newModel := range models {
		for charsetName, c := range map[string]charset{"": unicodeSet, "-ascii": asciiSet} {
			for _, size := range [][2]int{{80, 24}, {120, 40}} {
				m := newModel(c)
				file := fmt.Sprintf("%s-%dx%d%s", strings.ReplaceAll(name, " ", "-"), size[0], size[1], charsetName)
				checkGolden(t, file, text(m.view(size[0], size[1])))
			}
		}
	}
	m := watched(asciiSet, 2, draining)
	m.report.first(3)
	checkGolden(t, "once", text(m.text(textWidth)))
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// checkSize: never more than there is room for, and nothing but what one cell shows.
func checkSize(t *testing.T, m *model, width, height int) {
	t.Helper()
	lines := m.view(width, height)
	if len(lines) > height {
		t.Fatalf("%d lines in %dx%d", len(lines), width, height)
	}
	known := string(m.charset.levels) + m.charset.ellipsis + m.charset.done + m.charset.left
	for _, l := range lines {
		text := l.String()
		if n := utf8.RuneCountInString(text); n > width {
			t.Fatalf("%d cells in %dx%d: %s", n, width, height, text)
		}
		for _, r := range text {
			if (r < ' ' || r > '~') && !strings.ContainsRune(known, r) {
				t.Fatalf("%q in %q", r, text)
			}
		}
	}
}

func TestViewSizes(t *testing.T) {
	for _, newModel := range models {
		m := newModel(unicodeSet)
		for width := 20; width <= 300; width += 28 {
			for height := 5; height <= 100; height += 19 {
				checkSize(t, m, width, height)
			}
		}
		checkSize(t, m, 1, 1)
		checkSize(t, m, 0, 0)
	}
}

// TestViewFillsTheScreen: what does not fit is what is left out, and nothing else.
func TestViewFillsTheScreen(t *testing.T) {
	m := models["busy"](unicodeSet)
	for height := 1; height <= 100; height += 3 {
		if n := len(m.view(80, height)); n != height {
			t.Errorf("%d lines of %d", n, height)
		}
	}
}

func FuzzView(f *testing.F) {
	f.Add(80, 24, "session", "192.0.2.1", 1.5, uint64(1<<63), 3)
	f.Add(20, 5, "\x1b[31m\u202e\xff", "\t", -1.0, uint64(0), -5)
	f.Add(300, 100, strings.Repeat("x", 300), "", 1e300, ^uint64(0), 1<<40)
	f.Fuzz(func(t *testing.T, width, height int, session, name string, idle float64, count uint64, n int) {
		if width < 0 || width > 400 || height < 0 || height > 200 {
			return
		}
		tunnel := adminapi.Tunnel{ID: count, SessionID: session, ClientIP: name, IdleSeconds: idle, BytesToRelay: count, FramesToClient: count}
		m := watched(asciiSet, 3, func(s *sample) {
			s.status.Version, s.status.Engine, s.status.Tunnels, s.status.UptimeSeconds = name, session, n, int64(count)
			s.status.Upstreams[0] = adminapi.Upstream{Name: name, Tunnels: n, OpenedTotal: count, LastFailure: &adminapi.Failure{Stage: name, Error: session}}
			s.status.Drains = []adminapi.Drain{{ID: count, Upstream: name, Total: n, Left: int(count)}}
			s.totals.closes = map[ending]uint64{{name, session}: count}
			s.totals.rejected = map[string]uint64{session: count}
			s.totals.toRelay.bytes = count
			s.carried, s.idle = []adminapi.Tunnel{tunnel}, []adminapi.Tunnel{tunnel}
		})
		checkSize(t, m, width, height)
	})
}
