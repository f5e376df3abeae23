package report

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// Lengths in the plot, in pixels. One column, so that a phone, which shrinks it to
// three quarters, leaves it readable.
const (
	width       = 480
	margin      = 20
	panelWidth  = width - 2*margin
	titleHeight = 60
	panelHead   = 50
	panelGap    = 22
	barHeight   = 18
	barStep     = 26
	labelWidth  = 140 // left of the bars
	valueWidth  = 62  // right of them
	noteHeight  = 19
)

// style has a background of its own, so that the plot is readable wherever the
// reader's theme and the page's disagree.
const style = `<style>
text { font: 15px -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", Helvetica, Arial, sans-serif; fill: #1f2328; }
.head { font-size: 18px; font-weight: 600; }
.title { font-size: 15px; font-weight: 600; }
.note { font-size: 13.5px; fill: #59636e; }
.bold { font-weight: 600; }
.paper { fill: #fff; stroke: #d1d9e0; }
.peer { fill: #afb8c1; }
.ours { fill: #0969da; }
.spread { stroke: #1f2328; stroke-width: 1.5; opacity: .6; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.note { fill: #9198a1; }
.paper { fill: #0d1117; stroke: #3d444d; }
.peer { fill: #525c67; }
.ours { fill: #4493f8; }
.spread { stroke: #f0f6fc; }
}
</style>
`

// labels are the contestants' names in the plot, where they differ.
var labels = map[string]string{"haproxy": "HAProxy", "ours": "watchrtc_proxy"}

// Plot draws the run as SVG: a panel of bars for each of the main metrics, at
// the first count of tunnels.
func (r *Run) Plot(ours string) string {
	counts := r.tunnelCounts()
	if len(counts) == 0 {
		return ""
	}
	panels := r.panels()
	panelHeight := panelHead + barStep*len(r.Contestants) + panelGap
	notes := []string{fmt.Sprintf("Median and spread of %d rounds.", r.rounds()), r.Machine + "."}
	height := titleHeight + len(panels)*panelHeight + noteHeight*len(notes) + margin/2

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Cost of %s tunnels, by proxy">`+"\n",
		width, height, width, height, thousands(counts[0]))
	b.WriteString(style)
	fmt.Fprintf(&b, `<rect class="paper" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", width-1, height-1)
	writeText(&b, margin, 36, "head", fmt.Sprintf("%s TLS-to-TLS WebSocket tunnels", thousands(counts[0])))
	for i, m := range panels {
		r.drawPanel(&b, margin, titleHeight+i*panelHeight, counts[0], m, ours)
	}
	for i, note := range notes {
		writeText(&b, margin, height-margin-noteHeight*(len(notes)-1-i), "note", note)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// panels are the metrics worth a picture, in rows of what belongs together. A
// run from before a metric was thought of has no panel for it.
func (r *Run) panels() []Metric {
	first, last := r.Paces[0], r.Paces[len(r.Paces)-1]
	keys := []string{
		AfterMemory, HandshakeCPU, Posts,
		At(MessageCPU, first), At(MessageCPU, last), At(MessageP99, first),
		BulkUp, BulkDown, BulkCPU,
	}
	byKey := map[string]Metric{}
	for _, m := range r.metrics() {
		byKey[m.Key] = m
	}
	var panels []Metric
	for _, key := range slices.Compact(keys) { // with one pace, first is last
		if r.measured(key) {
			panels = append(panels, byKey[key])
		}
	}
	return panels
}

func (r *Run) measured(key string) bool {
	return slices.ContainsFunc(r.Samples, func(s Sample) bool { _, ok := s.Values[key]; return ok })
}

func (r *Run) rounds() int {
	rounds := 0
	for _, s := range r.Samples {
		rounds = max(rounds, s.Round)
	}
	return rounds
}

func (r *Run) drawPanel(b *strings.Builder, x, y, tunnels int, m Metric, ours string) {
	better := "less is better"
	if m.More {
		better = "more is better"
	}
	if m.Unit != "" {
		better = m.Unit + ", " + better
	}
	writeText(b, x, y+15, "title", m.Title)
	writeText(b, x, y+35, "note", better)

	longest := 0.0
	for _, c := range r.Contestants {
		if s, ok := r.stat(c.Name, tunnels, m.Key); ok {
			longest = max(longest, s.Max)
		}
	}
	for i, c := range r.Contestants {
		s, ok := r.stat(c.Name, tunnels, m.Key)
		if !ok {
			continue
		}
		scale := (panelWidth - labelWidth - valueWidth) / longest
		drawBar(b, x, y+panelHead+i*barStep, c.Name, s, scale, c.Name == ours)
	}
}

func drawBar(b *strings.Builder, x, y int, name string, s Stat, scale float64, ours bool) {
	label, bar, text := name, "peer", ""
	if l, ok := labels[name]; ok {
		label = l
	}
	if ours {
		bar, text = "ours", "bold"
	}
	left, middle := float64(x+labelWidth), float64(y)+barHeight/2.0
	writeText(b, x, y+14, text, label)
	fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", bar, left, y, s.Median*scale, barHeight)
	if s.Max > s.Min {
		fmt.Fprintf(b, `<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", left+s.Min*scale, left+s.Max*scale, middle, middle)
	}
	writeText(b, int(left+s.Max*scale)+6, y+14, text, format(s.Median))
}

func writeText(b *strings.Builder, x, y int, class, text string) {
	fmt.Fprintf(b, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", class, x, y, html.EscapeString(text))
}
