package report

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// Panel is a figure over time: one sample after another, at equal intervals.
type Panel struct {
	Title, Unit string
	Values      []float64
}

const (
	lineHeight = 70 // of the area in which a line is drawn
	lineStep   = panelHead + lineHeight + panelGap
)

// Lines draws panels as SVG, each from zero to its largest value.
func Lines(title string, panels []Panel, notes ...string) string {
	height := titleHeight + len(panels)*lineStep + noteHeight*len(notes) + margin/2
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, html.EscapeString(title))
	b.WriteString(style)
	fmt.Fprintf(&b, `<rect class="paper" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", width-1, height-1)
	writeText(&b, margin, 36, "head", title)
	for i, panel := range panels {
		panel.draw(&b, margin, titleHeight+i*lineStep)
	}
	for i, note := range notes {
		writeText(&b, margin, height-margin-noteHeight*(len(notes)-1-i), "note", note)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p Panel) draw(b *strings.Builder, x, y int) {
	writeText(b, x, y+15, "title", p.Title)
	if len(p.Values) == 0 {
		return
	}
	most := max(slices.Max(p.Values), 1)
	writeText(b, x, y+35, "note", fmt.Sprintf("%s; at most %s, at the end %s", p.Unit, format(most), format(p.Values[len(p.Values)-1])))
	var points []string
	for i, v := range p.Values {
		px := float64(x) + float64(i)*panelWidth/float64(max(len(p.Values)-1, 1))
		py := float64(y+panelHead+lineHeight) - v/most*lineHeight
		points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
	}
	fmt.Fprintf(b, `<polyline fill="none" stroke="#0969da" stroke-width="1.5" points="%s"/>`+"\n", strings.Join(points, " "))
}
