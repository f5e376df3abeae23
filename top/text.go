package top

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// look is how text stands out. Nothing is told by it alone: terminals may have no
// colour.
type look int

const (
	plain look = iota
	title
	faint
	graph
	good
	warning
	bad
)

// span is text of one look. All its characters are one cell wide.
type span struct {
	text string
	look look
}

// line is one of the view.
type line []span

// cut returns the line with width cells at most.
func (l line) cut(width int) line {
	var kept line
	for _, s := range l {
		if width <= 0 {
			break
		}
		s.text = firstCells(s.text, width)
		width -= utf8.RuneCountInString(s.text)
		kept = append(kept, s)
	}
	return kept
}

func (l line) String() string {
	var b strings.Builder
	for _, s := range l {
		b.WriteString(s.text)
	}
	return b.String()
}

func firstCells(text string, n int) string {
	for i := range text {
		if n <= 0 {
			return text[:i]
		}
		n--
	}
	return text
}

// charset is what graphs and ellipses are made of.
type charset struct {
	levels   []rune // of a sparkline, from nothing to most
	ellipsis string
	done     string // of a bar
	left     string
}

var (
	unicodeSet = charset{[]rune("▁▂▃▄▅▆▇█"), "…", "█", "░"}
	asciiSet   = charset{[]rune("_.-:=+*#"), "~", "#", "."}
)

// sparkline shows the latest values, as many as fit, and their maximum.
func (c charset) sparkline(values []rate, width int) (text string, most rate) {
	values = values[max(0, len(values)-max(width, 0)):]
	most = unknown
	for _, v := range values {
		if v.known() && !(most > v) {
			most = v
		}
	}
	var b strings.Builder
	for _, v := range values {
		b.WriteRune(c.level(v, most))
	}
	return b.String(), most
}

// level has its lowest for nothing only.
func (c charset) level(v, most rate) rune {
	top := len(c.levels) - 1
	switch {
	case !v.known():
		return ' '
	case v <= 0:
		return c.levels[0]
	}
	return c.levels[max(1, min(top, int(v/most*rate(top)+0.5)))]
}

// bar shows a share of a whole.
func (c charset) bar(part, whole, width int) string {
	n := width
	if whole > 0 {
		n = min(width, max(0, part*width/whole))
	}
	return strings.Repeat(c.done, n) + strings.Repeat(c.left, width-n)
}

// clean replaces what no cell of its own can show, and what a terminal could take for a
// command: clients choose their session IDs.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// fit fills or cuts text to a width, 1 at least.
func (c charset) fit(text string, width int) string {
	if utf8.RuneCountInString(text) > width {
		return firstCells(text, width-1) + c.ellipsis
	}
	return text + strings.Repeat(" ", width-utf8.RuneCountInString(text))
}

// right fills text to a width, and leaves what is longer.
func right(text string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text))) + text
}

// decimal writes a rate that counts things.
func decimal(r rate) string {
	switch {
	case !r.known():
		return "-"
	case r > 0 && r < 99.95:
		return fmt.Sprintf("%.1f", r)
	}
	return humanize.Comma(int64(r + 0.5))
}

// whole writes a number of things.
func whole(r rate) string {
	if !r.known() {
		return "-"
	}
	return humanize.Comma(int64(r))
}

// size writes bytes, 1 kB being 1,000 of them.
func size(r rate) string {
	if !r.known() {
		return "-"
	}
	return humanize.Bytes(uint64(r + 0.5))
}

// age writes a duration in its two largest units.
func age(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s%86400/3600)
}
