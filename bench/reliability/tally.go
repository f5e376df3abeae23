package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// lossResult sums up the tunnels that ended in the same way.
type lossResult struct {
	Contestant string `json:"contestant"`
	RelayTLS   bool   `json:"relay_tls"`
	Way        string `json:"way"`
	By         string `json:"by"` // client or relay
	Tunnels    int    `json:"tunnels"`
	Accepted   int64  `json:"accepted_bytes"` // payload that the proxy's kernel had acknowledged
	Delivered  int64  `json:"delivered_bytes"`
	Lost       int64  `json:"lost_bytes"` // both ways, where the ender still read
	WithLoss   int    `json:"tunnels_with_loss"`
	Closes     int    `json:"close_frames_lost"`
	Damaged    int    `json:"damaged"`   // bytes doubled, moved or changed
	Disguised  int    `json:"disguised"` // abnormal ends that were seen as orderly
	Resets     int    `json:"disguised_resets"`
	Hung       int    `json:"hung"` // no end was seen
}

// tally collects outcomes.
type tally struct {
	mu    sync.Mutex
	sums  []lossResult
	order map[string]int
}

func newTally(contestant string, plain bool) *tally {
	t := &tally{order: map[string]int{}}
	for _, way := range ways {
		for _, by := range []string{"client", "relay"} {
			t.order[way.name+by] = len(t.sums)
			t.sums = append(t.sums, lossResult{Contestant: contestant, RelayTLS: !plain, Way: way.name, By: by})
		}
	}
	return t
}

func (t *tally) add(tunnel *tunnel, o outcome) {
	by := "relay"
	if tunnel.byClient {
		by = "client"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &t.sums[t.order[tunnel.name+by]]
	r.Tunnels++
	r.Accepted += o.accepted + o.back
	r.Delivered += o.delivered + o.backDelivered
	r.Lost += o.lost()
	r.WithLoss += count(o.lost() > 0)
	r.Closes += count(o.closeLost)
	r.Damaged += count(o.damaged)
	r.Disguised += count(o.disguised)
	r.Resets += count(o.disguised && tunnel.reset)
	r.Hung += count(o.hung)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *tally) results() []lossResult {
	return slices.DeleteFunc(t.sums, func(r lossResult) bool { return r.Tunnels == 0 })
}

func (l lossResult) leg() string {
	if l.RelayTLS {
		return "TLS"
	}
	return "plain TCP"
}

// plus adds up results for the tables.
func (l lossResult) plus(o lossResult) lossResult {
	l.Tunnels += o.Tunnels
	l.Accepted += o.Accepted
	l.Delivered += o.Delivered
	l.Lost += o.Lost
	l.WithLoss += o.WithLoss
	l.Closes += o.Closes
	l.Damaged += o.Damaged
	l.Disguised += o.Disguised
	l.Resets += o.Resets
	l.Hung += o.Hung
	return l
}

// fault says what ours promises not to do. crypto/tls cannot tell a FIN without
// close_notify from one with it, so only resets have to be told.
func (l lossResult) fault() string {
	var faults []string
	for _, f := range []struct {
		count int
		what  string
	}{
		{l.WithLoss, fmt.Sprintf("lost %s", bytesText(float64(l.Lost)))},
		{l.Closes, "lost Close frames"},
		{l.Damaged, "damaged bytes"},
		{l.Resets, "passed a reset on as an orderly end"},
		{l.Hung, "passed no end on"},
	} {
		if f.count > 0 {
			faults = append(faults, fmt.Sprintf("%d of %d tunnels %s", f.count, l.Tunnels, f.what))
		}
	}
	return strings.Join(faults, "; ")
}

func (r *results) writeLoss(b *strings.Builder) {
	names := lossNames(r.Loss)
	b.WriteString("### Loss\n\nAccepted: payload that the proxy's kernel had acknowledged when the tunnel was ended. Lost: what of it never arrived. " +
		"Disguised: abnormal ends seen as orderly ones. Hung: the other side saw no end.\n\n")
	writeHeader(b, "", "tunnels", "accepted", "lost", "tunnels with loss", "Close frames lost", "damaged", "disguised", "hung", "")
	for _, name := range names {
		l := r.lossOf(func(l lossResult) bool { return l.Contestant == name })
		writeRow(b, name, fmt.Sprint(l.Tunnels), bytesText(float64(l.Accepted)), bytesText(float64(l.Lost)), fmt.Sprint(l.WithLoss),
			fmt.Sprint(l.Closes), fmt.Sprint(l.Damaged), fmt.Sprint(l.Disguised), fmt.Sprint(l.Hung), mark(l.fault()))
	}
	b.WriteString("\nBy way: lost, in so many tunnels; then C: Close frames lost, D: disguised, H: hung.\n\n")
	writeHeader(b, append([]string{"", "by"}, names...)...)
	for _, way := range ways {
		for _, by := range []string{"client", "relay"} {
			cells := []string{way.name, by}
			for _, name := range names {
				cells = append(cells, r.lossOf(func(l lossResult) bool { return l.Contestant == name && l.Way == way.name && l.By == by }).cell())
			}
			writeRow(b, cells...)
		}
	}
	b.WriteByte('\n')
}

func lossNames(all []lossResult) (names []string) {
	for _, l := range all {
		if !slices.Contains(names, l.Contestant) {
			names = append(names, l.Contestant)
		}
	}
	return names
}

func (r *results) lossOf(choose func(lossResult) bool) (sum lossResult) {
	for _, l := range r.Loss {
		if choose(l) {
			sum = sum.plus(l)
		}
	}
	return sum
}

// cell is empty where nothing happened.
func (l lossResult) cell() string {
	var parts []string
	if l.WithLoss > 0 {
		parts = append(parts, fmt.Sprintf("%s in %d of %d", bytesText(float64(l.Lost)), l.WithLoss, l.Tunnels))
	}
	for _, c := range []struct {
		letter string
		count  int
	}{{"C", l.Closes}, {"D", l.Disguised}, {"H", l.Hung}} {
		if c.count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", c.letter, c.count))
		}
	}
	return strings.Join(parts, ", ")
}
