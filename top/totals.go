package top

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// totals are counters that the metrics have and the admin API's status has not, of all
// upstreams together.
type totals struct {
	at       time.Time
	toRelay  carried
	toClient carried
	closes   map[ending]uint64 // without those that have never happened
	rejected map[string]uint64 // by reason, likewise
}

// carried is what went in one direction.
type carried struct{ bytes, frames uint64 }

// ending is how tunnels end: the labels of tunnels_closed_total.
type ending struct{ by, code string }

const metricPrefix = "caddy_watchrtc_proxy_"

// label matches one of a series in the text format of Prometheus. None of this module's
// has a value with an escape in it.
var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// parseTotals reads what it wants of a page, whose lines are
//
//	name{label="value",…} number
//
// and passes over all else.
func parseTotals(page string, at time.Time) *totals {
	t := &totals{at: at, closes: make(map[ending]uint64), rejected: make(map[string]uint64)}
	for line := range strings.Lines(page) {
		series, ok := strings.CutPrefix(line, metricPrefix)
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(series, "{")
		if !ok {
			continue
		}
		labels, number, ok := strings.Cut(rest, "} ")
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n > 0 && n < 1<<64) {
			continue
		}
		t.add(name, parseLabels(labels), uint64(n))
	}
	return t
}

func parseLabels(text string) map[string]string {
	labels := make(map[string]string)
	for _, match := range label.FindAllStringSubmatch(text, -1) {
		labels[match[1]] = match[2]
	}
	return labels
}

func (t *totals) add(name string, labels map[string]string, n uint64) {
	direction := &t.toRelay
	if labels["direction"] == "to_client" {
		direction = &t.toClient
	}
	switch name {
	case "bytes_total":
		direction.bytes += n
	case "frames_total":
		direction.frames += n
	case "tunnels_closed_total":
		t.closes[ending{labels["by"], labels["code"]}] += n
	case "rejected_total":
		t.rejected[labels["reason"]] += n
	}
}
