package report

import (
	"strconv"
	"strings"
)

// Metric is one thing that is measured.
type Metric struct {
	Key   string // in Sample.Values
	Title string
	Unit  string
	More  bool // is better
}

// Keys of Sample.Values. Those that depend on the pace take At.
const (
	IdleMemory   = "idle_kib"
	AfterMemory  = "after_kib"
	HandshakeCPU = "handshake_cpu_ms"
	MessageCPU   = "message_cpu_us"
	MessageP50   = "message_p50_ms"
	MessageP99   = "message_p99_ms"
	Posts        = "posts_per_s"
	PostCPU      = "post_cpu_us"
	PostP99      = "post_p99_ms"
	BulkUp       = "bulk_to_relay_mb_per_s"
	BulkDown     = "bulk_to_client_mb_per_s"
	BulkCPU      = "bulk_cpu_ms_per_mb"
)

// At is the key of a metric measured at a pace.
func At(key, pace string) string { return key + "@" + pace }

// metrics are those of a run, in the order of the tables.
func (r *Run) metrics() []Metric {
	ms := []Metric{
		{Key: IdleMemory, Title: "Memory per idle tunnel", Unit: "KiB"},
		{Key: AfterMemory, Title: "Memory per tunnel after traffic", Unit: "KiB"},
		{Key: HandshakeCPU, Title: "CPU per handshake", Unit: "ms"},
	}
	for _, pace := range r.Paces {
		at := ", " + paceTitle(pace)
		ms = append(ms,
			Metric{Key: At(MessageCPU, pace), Title: "CPU per message" + at, Unit: "µs"},
			Metric{Key: At(MessageP50, pace), Title: "Round trip p50" + at, Unit: "ms"},
			Metric{Key: At(MessageP99, pace), Title: "Round trip p99" + at, Unit: "ms"})
	}
	return append(ms,
		Metric{Key: Posts, Title: "POST /trace a second", More: true},
		Metric{Key: PostCPU, Title: "CPU per POST", Unit: "µs"},
		Metric{Key: PostP99, Title: "POST round trip p99", Unit: "ms"},
		Metric{Key: BulkUp, Title: "Bulk to the relay", Unit: "MB/s", More: true},
		Metric{Key: BulkDown, Title: "Bulk to the client", Unit: "MB/s", More: true},
		Metric{Key: BulkCPU, Title: "CPU per MB of bulk", Unit: "ms"})
}

// paceTitle makes 1,500/s of 1500/s, and leaves names as they are.
func paceTitle(pace string) string {
	if n, err := strconv.Atoi(strings.TrimSuffix(pace, "/s")); err == nil {
		return thousands(n) + "/s"
	}
	return pace
}

func (m Metric) name() string {
	if m.Unit == "" {
		return m.Title
	}
	return m.Title + ", " + m.Unit
}

// Best stands for the best of all peers.
const Best = "the best"

// goal bounds the ratio of ours to a peer's.
type goal struct {
	key   string // without the pace: met when it is at each
	peer  string
	limit float64
}

// goals are what this project wants to reach.
var goals = []goal{
	{AfterMemory, "haproxy", 0.6},
	{AfterMemory, "nginx", 0.35},
	{AfterMemory, "reverse_proxy", 0.2},
	{HandshakeCPU, "haproxy", 0.8},
	{HandshakeCPU, "reverse_proxy", 0.7},
	{MessageCPU, Best, 1},
	{MessageP50, "nginx", 1},
	{MessageP99, "nginx", 1},
	{Posts, "reverse_proxy", 1.8},
	{Posts, "nginx", 0.75},
	{BulkUp, "reverse_proxy", 1},
	{BulkDown, "reverse_proxy", 1},
}

// flat is how much the cost of one tunnel may differ between few and many.
const flat = 1.10
