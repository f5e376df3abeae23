package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

// section is a part of the view. Where there is little room it is cut at its end.
type section struct {
	lines []line
	least int // lines that it gets before another has more than its least
}

// view returns what is shown, height lines of width cells at most.
func (m *model) view(width, height int) []line {
	foot := line{{"q quit   p pause", faint}}
	if m.paused {
		foot = line{{"PAUSED", warning}, {"   p go on   q quit", faint}}
	}
	const enough = 12 // for a line that tells nothing about Caddy
	if height < enough {
		return cutAll(arrange(m.sections(width, height), height), width)
	}
	lines := arrange(m.sections(width, height), height-1)
	for len(lines) < height-1 {
		lines = append(lines, nil)
	}
	return cutAll(append(lines, foot), width)
}

func cutAll(lines []line, width int) []line {
	for i := range lines {
		lines[i] = lines[i].cut(width)
	}
	return lines
}

// sections are in order of importance. None of them needs more than height lines.
func (m *model) sections(width, height int) []section {
	if m.report == nil {
		return []section{{m.header(width), 3}}
	}
	return []section{
		{m.header(width), 3},
		{m.graphs(width), int(figures)},
		{m.drains(width), 2},
		{m.upstreams(width), 3},
		{m.closes(), 2},
		{m.rejected(), 1},
		{m.busiest(width, height), 3},
		{m.idle(width, height), 3},
	}
}

// arrange gives each section its least as far as there is room, and then one line more
// to one after another. What is left stands between them.
func arrange(sections []section, height int) (lines []line) {
	granted := make([]int, len(sections))
	room := height
	for i, s := range sections {
		granted[i] = max(0, min(s.least, len(s.lines), room))
		room -= granted[i]
	}
	for more := true; more && room > 0; {
		more = false
		for i, s := range sections {
			if room > 0 && 0 < granted[i] && granted[i] < len(s.lines) {
				granted[i]++
				room--
				more = true
			}
		}
	}
	for i, s := range sections {
		if room > 0 && i > 0 && granted[i] > 0 {
			lines = append(lines, nil)
			room--
		}
		lines = append(lines, s.lines[:granted[i]]...)
	}
	return lines
}

// header says of which Caddy all this is, and whether that responds.
func (m *model) header(width int) []line {
	if m.report == nil {
		return []line{{{clean(fmt.Sprint(m.gone)), bad}}}
	}
	r := m.report
	left := line{{"watchrtc-top  ", title}, {clean(r.Address), plain}}
	about := fmt.Sprintf("  %s, %s, up %s", clean(r.Version), clean(strings.ReplaceAll(r.Engine, "_", " ")), age(time.Duration(r.UptimeSeconds)*time.Second))
	if used, clock := len(left.String()), r.Time.Format(" 15:04:05"); width >= used+len(clock)+8 {
		about = m.charset.fit(about, width-used-len(clock)) + clock
	}
	lines := []line{append(left, span{about, faint})}
	switch {
	case m.gone != nil:
		lines = append(lines, line{{fmt.Sprintf("NO RESPONSE for %s; what is below is that old", age(m.now.Sub(m.report.Time))), bad}},
			line{{clean(m.gone.Error()), plain}})
	case r.Stopping:
		lines = append(lines, line{{"STOPPING: the process closes its tunnels and ends", warning}})
	}
	return lines
}

// graphs are the figures that have a history. A character of a sparkline is one poll.
func (m *model) graphs(width int) []line {
	const (
		values = 9
		peaks  = 14 // " max " and a value
	)
	labels := max(1, min(21, width-values)) // the longest has 20
	room := width - labels - values - 2
	peaked := room >= 2*peaks
	if peaked {
		room -= peaks
	}
	var lines []line
	for figure, row := range [figures]struct {
		label string
		write func(rate) string
	}{
		tunnels:        {"tunnels", whole},
		inFlight:       {"handshakes under way", whole},
		handshakes:     {"handshakes/s", decimal},
		failures:       {"  failed/s", decimal},
		closings:       {"closed/s", decimal},
		framesToRelay:  {"frames/s to relay", decimal},
		framesToClient: {"frames/s to client", decimal},
		bytesToRelay:   {"bytes/s to relay", size},
		bytesToClient:  {"bytes/s to client", size},
	} {
		now := m.latest(figure)
		value := plain
		if figure == failures && now > 0 {
			value = warning
		}
		l := line{{m.charset.fit(row.label, labels), plain}, {right(row.write(now), values), value}}
		if text, most := m.charset.sparkline(m.past[figure], room); len(m.past[figure]) > 2 {
			l = append(l, span{"  " + m.charset.fit(text, max(1, room)), graph})
			if peaked {
				l = append(l, span{" max " + right(row.write(most), values), faint})
			}
		}
		lines = append(lines, l)
	}
	return lines
}

// drains are those that are under way.
func (m *model) drains(width int) (lines []line) {
	for _, d := range m.report.Drains {
		name := fmt.Sprintf("drain %d", d.ID)
		if d.ID == 0 {
			name = "drain" // by a reload or a stop
		}
		ends := "the last ones are closing"
		if left := d.Ends.Sub(m.report.Time); left > 0 {
			ends = "ends in " + age(left)
		}
		of := ""
		if d.Upstream != "" {
			of = "  " + clean(d.Upstream)
		}
		bar := m.charset.bar(d.Total-d.Left, d.Total, max(10, width/4))
		text := fmt.Sprintf(" %s of %s left, %s%s", whole(rate(d.Left)), whole(rate(d.Total)), ends, of)
		lines = append(lines, line{{m.charset.fit(name, 10), warning}, {bar, graph}, {text, plain}})
	}
	return lines
}

// cell is one of a table's row.
type cell struct {
	text  string
	width int // negative: to the right
	look  look
}

func (m *model) row(cells ...cell) (l line) {
	for i, c := range cells {
		if i > 0 {
			l = append(l, span{" ", c.look})
		}
		text := right(c.text, -c.width)
		if c.width > 0 {
			text = m.charset.fit(c.text, c.width)
		}
		l = append(l, span{text, c.look})
	}
	return l
}

// upstreams has the relays, those that are down first, and those that are no longer
// used last.
func (m *model) upstreams(width int) []line {
	list := slices.Clone(m.report.Upstreams)
	slices.SortStableFunc(list, func(a, b adminapi.Upstream) int { return cmp.Compare(rank(a), rank(b)) })
	name := 26
	for _, u := range list {
		name = max(name, min(len(u.Name), width/3))
	}
	rows := []line{m.row(cell{fmt.Sprintf("RELAYS %d", len(list)), name, title}, cell{"STATE", 8, title}, cell{"TUNNELS", -8, title},
		cell{"OPENED", -9, title}, cell{"FAILED", -8, title}, cell{"LAST FAILURE", 60, title})}
	for _, u := range list {
		state, how := state(u)
		rows = append(rows, m.row(cell{clean(u.Name), name, plain}, cell{state, 8, how}, cell{whole(rate(u.Tunnels)), -8, plain},
			cell{whole(rate(u.OpenedTotal)), -9, plain}, cell{whole(rate(u.HandshakeFailuresTotal)), -8, plain},
			cell{m.lastFailure(u.LastFailure), 60, faint}))
	}
	return rows
}

func rank(u adminapi.Upstream) int {
	switch {
	case !u.Configured && u.Tunnels == 0:
		return 2
	case u.Up:
		return 1
	}
	return 0
}

func state(u adminapi.Upstream) (string, look) {
	switch {
	case u.Draining:
		return "draining", warning
	case !u.Configured:
		return "unused", faint // has left the configuration
	case !u.Up:
		return "DOWN", bad
	}
	return "up", good
}

func (m *model) lastFailure(f *adminapi.Failure) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%s, %s ago: %s", clean(f.Stage), age(m.report.Time.Sub(f.Time)), clean(f.Error))
}

// meanings are of the close codes that are usual here (RFC 6455, section 7.4.1).
var meanings = map[string]string{
	"1000": "normal", "1001": "going away", "1002": "protocol error", "1005": "without a code", "1006": "without a Close frame",
	"1008": "policy", "1009": "too big", "1011": "internal error", "1012": "service restart", "1013": "try again later",
}

// closes has how tunnels have ended, what has happened since the view began first.
func (m *model) closes() []line {
	const by, code, total, seen = 7, 28, -12, -14
	rows := []line{m.row(cell{"CLOSED", by, title}, cell{"CODE", code, title}, cell{"TOTAL", total, title}, cell{"IN THIS VIEW", seen, title})}
	if m.report.Closes == nil {
		return append(rows, line{{"no " + adminapi.PathMetrics + " at this address", faint}})
	}
	list := slices.Clone(m.report.Closes)
	slices.SortStableFunc(list, func(a, b closes) int { return cmp.Compare(m.lately(b), m.lately(a)) })
	for _, c := range list {
		rows = append(rows, m.row(cell{clean(c.By), by, plain}, cell{clean(c.Code + " " + meanings[c.Code]), code, plain},
			cell{whole(rate(c.Total)), total, plain}, cell{"+" + whole(rate(m.lately(c))), seen, plain}))
	}
	return rows
}

// lately is how many there were since the view began.
func (m *model) lately(c closes) uint64 {
	before := m.begun.closes[ending{c.By, c.Code}]
	return c.Total - min(before, c.Total)
}

// rejected has what was refused here.
func (m *model) rejected() []line {
	if len(m.report.Rejected) == 0 {
		return nil
	}
	var parts []string
	for _, r := range m.report.Rejected {
		parts = append(parts, clean(r.Reason)+" "+whole(rate(r.Total)))
	}
	return []line{{{"REFUSED ", title}, {strings.Join(parts, ", "), plain}}}
}

// Widths of the columns that both tables of tunnels have.
const (
	idWidth      = -8
	sizeWidth    = -9
	ageWidth     = -7
	sessionWidth = 128 // as long as the plugin leaves a session ID
)

// wide is from where on there is room for the less important.
const wide = 110

// clientWidth holds an IPv6 address where there is room.
func clientWidth(width int) int {
	if width < wide {
		return 15
	}
	return 39
}

func (m *model) busiest(width, rows int) []line {
	session := "SESSION"
	if m.report.Tunnels > mostCarried && width >= wide {
		session += fmt.Sprintf(" (of the %s that have carried most)", whole(mostCarried))
	}
	client := clientWidth(width)
	lines := []line{m.row(cell{"BUSIEST", -idWidth, title}, cell{"CLIENT", client, title}, cell{"BYTES/S", sizeWidth, title},
		cell{"FRAMES/S", -8, title}, cell{"CARRIED", sizeWidth, title}, cell{"OPEN", ageWidth, title}, cell{session, sessionWidth, title})}
	for _, t := range m.report.Busiest[:min(rows, len(m.report.Busiest))] {
		lines = append(lines, m.row(cell{fmt.Sprint(t.ID), idWidth, plain}, cell{clean(t.ClientIP), client, plain},
			cell{size(t.BytesPerSecond), sizeWidth, plain}, cell{decimal(t.FramesPerSecond), -8, plain},
			cell{size(rate(t.BytesToRelay + t.BytesToClient)), sizeWidth, plain}, cell{age(m.report.Time.Sub(t.Opened)), ageWidth, plain},
			cell{clean(t.SessionID), sessionWidth, faint}))
	}
	return lines
}

func (m *model) idle(width, rows int) []line {
	client := clientWidth(width)
	lines := []line{m.row(cell{"IDLE", -idWidth, title}, cell{"CLIENT", client, title}, cell{"IDLE FOR", sizeWidth, title},
		cell{"FRAMES", -8, title}, cell{"CARRIED", sizeWidth, title}, cell{"OPEN", ageWidth, title}, cell{"SESSION", sessionWidth, title})}
	for _, t := range m.report.Idle[:min(rows, len(m.report.Idle))] {
		idle := time.Duration(t.IdleSeconds * float64(time.Second))
		lines = append(lines, m.row(cell{fmt.Sprint(t.ID), idWidth, plain}, cell{clean(t.ClientIP), client, plain},
			cell{age(idle), sizeWidth, plain}, cell{whole(rate(t.FramesToRelay + t.FramesToClient)), -8, plain},
			cell{size(rate(t.BytesToRelay + t.BytesToClient)), sizeWidth, plain}, cell{age(m.report.Time.Sub(t.Opened)), ageWidth, plain},
			cell{clean(t.SessionID), sessionWidth, faint}))
	}
	return lines
}

// text is the view without bounds on its height, for --once.
func (m *model) text(width int) []line {
	sections := m.sections(width, longestIdle)
	all := len(sections) - 1 // lines between them
	for _, s := range sections {
		all += len(s.lines)
	}
	return cutAll(arrange(sections, all), width)
}
