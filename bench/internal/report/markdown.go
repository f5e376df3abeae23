package report

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown shows the run as tables, with the contestant called ours compared
// to each other.
func (r *Run) Markdown(ours string) string {
	var b strings.Builder
	for _, tunnels := range r.tunnelCounts() {
		r.writeValues(&b, tunnels)
		r.writeRatios(&b, ours, tunnels)
	}
	r.writeScaling(&b)
	r.writeOrigin(&b)
	return b.String()
}

func (r *Run) names(except string) []string {
	var names []string
	for _, c := range r.Contestants {
		if c.Name != except {
			names = append(names, c.Name)
		}
	}
	return names
}

func writeRow(b *strings.Builder, cells ...string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

func writeHeader(b *strings.Builder, cells ...string) {
	writeRow(b, cells...)
	writeRow(b, append([]string{"---"}, slices.Repeat([]string{"---:"}, len(cells)-1)...)...)
}

func (r *Run) writeValues(b *strings.Builder, tunnels int) {
	names := r.names("")
	fmt.Fprintf(b, "### %s tunnels\n\nMedian (lowest–highest) over the rounds.\n\n", thousands(tunnels))
	writeHeader(b, append([]string{""}, names...)...)
	for _, m := range r.metrics() {
		cells := []string{m.name()}
		for _, name := range names {
			cell := ""
			if s, ok := r.stat(name, tunnels, m.Key); ok {
				cell = s.String()
			}
			cells = append(cells, cell)
		}
		if strings.Join(cells[1:], "") != "" {
			writeRow(b, cells...)
		}
	}
	b.WriteByte('\n')
}

// writeRatios shows ours divided by each peer's, with the goal beside it.
func (r *Run) writeRatios(b *strings.Builder, ours string, tunnels int) {
	peers := r.names(ours)
	if len(peers) == 0 || len(peers) == len(r.Contestants) {
		return
	}
	fmt.Fprintf(b, "`%s` divided by each peer, with the goal where there is one (✓ met, ✗ missed).\n\n", ours)
	columns := append(slices.Clone(peers), Best)
	writeHeader(b, append([]string{""}, columns...)...)
	for _, m := range r.metrics() {
		cells := []string{m.Title}
		for _, peer := range columns {
			cells = append(cells, r.ratioCell(ours, peer, tunnels, m))
		}
		if strings.Join(cells[1:], "") != "" {
			writeRow(b, cells...)
		}
	}
	b.WriteByte('\n')
}

func (r *Run) ratioCell(ours, peer string, tunnels int, m Metric) string {
	ratio, ok := r.ratio(ours, peer, tunnels, m)
	if !ok {
		return ""
	}
	cell := format(ratio)
	for _, g := range goals {
		if key, _, _ := strings.Cut(m.Key, "@"); key == g.key && peer == g.peer {
			cell += " " + verdict(ratio, g.limit, m.More)
		}
	}
	return cell
}

func verdict(ratio, limit float64, more bool) string {
	sign, met := "≤", ratio <= limit
	if more {
		sign, met = "≥", ratio >= limit
	}
	mark := "✗"
	if met {
		mark = "✓"
	}
	return fmt.Sprintf("(%s %s %s)", sign, format(limit), mark)
}

// writeScaling shows whether a tunnel costs the same among few and many.
func (r *Run) writeScaling(b *strings.Builder) {
	counts := r.tunnelCounts()
	if len(counts) < 2 {
		return
	}
	slices.Sort(counts)
	head := []string{"", "tunnels:"}
	for _, n := range counts {
		head = append(head, thousands(n))
	}
	fmt.Fprintf(b, "### Few and many tunnels\n\nThe goal is that the most costs at most %s times the least.\n\n", format(flat))
	writeHeader(b, append(head, "most / least")...)
	for _, key := range []string{AfterMemory, HandshakeCPU, At(MessageCPU, r.Paces[0])} {
		for _, name := range r.names("") {
			r.writeScalingRow(b, key, name, counts)
		}
	}
	b.WriteByte('\n')
}

func (r *Run) writeScalingRow(b *strings.Builder, key, name string, counts []int) {
	i := slices.IndexFunc(r.metrics(), func(m Metric) bool { return m.Key == key })
	cells := []string{r.metrics()[i].name(), name}
	var medians []float64
	for _, n := range counts {
		s, ok := r.stat(name, n, key)
		if !ok {
			return
		}
		medians = append(medians, s.Median)
		cells = append(cells, s.String())
	}
	spread := slices.Max(medians) / slices.Min(medians)
	writeRow(b, append(cells, format(spread)+" "+verdict(spread, flat, false))...)
}

// writeOrigin says what was measured, and where.
func (r *Run) writeOrigin(b *strings.Builder) {
	verified, others := 0, 0.0
	for _, s := range r.Samples {
		verified += s.Verified
		others = max(others, s.Others)
	}
	var versions []string
	for _, c := range r.Contestants {
		versions = append(versions, fmt.Sprintf("%s: %s", c.Name, c.Version))
	}
	fmt.Fprintf(b, "%s; %s. %s. %s messages, posts and frames of bulk, each byte of which arrived. "+
		"Other programs on the machine used up to %.2f cores during a sample.\n",
		r.Machine, strings.Join(versions, "; "), r.Settings, thousands(verified), others)
}
