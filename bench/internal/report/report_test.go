package report

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var ds []time.Duration
	for i := 200; i > 0; i-- {
		ds = append(ds, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 100, 0.99: 198, 1: 200} {
		if got := Percentile(ds, q); got != want {
			t.Errorf("Percentile(1…200, %v) = %d, not %d", q, got, want)
		}
	}
	if got := Percentile(nil, 0.5); got != 0 {
		t.Errorf("Percentile of nothing = %v", got)
	}
}

func TestStat(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   string
	}{
		{[]float64{3, 1, 2}, "2.00 (1.00–3.00)"},
		{[]float64{10, 20}, "15.0 (10.0–20.0)"},
		{[]float64{1234567}, "1,234,567"},
	} {
		if got := newStat(test.values).String(); got != test.want {
			t.Errorf("newStat(%v) = %q, not %q", test.values, got, test.want)
		}
	}
}

// testRun has two counts of tunnels, and posts measured once for both.
func testRun() *Run {
	r := &Run{
		Machine: "Test & Co", Settings: "1 round", Paces: []string{"1500/s"},
		Contestants: []Contestant{{"haproxy", "2"}, {"reverse_proxy", "3"}, {"ours", "1"}},
	}
	add := func(name string, tunnels int, values map[string]float64) {
		r.Samples = append(r.Samples, Sample{Contestant: name, Round: 1, Tunnels: tunnels, Verified: 10, Values: values})
	}
	for i, name := range []string{"ours", "haproxy", "reverse_proxy"} {
		v := float64(i + 1)
		add(name, 1000, map[string]float64{AfterMemory: 20 * v, HandshakeCPU: v, At(MessageCPU, "1500/s"): 100 * v})
		add(name, 3000, map[string]float64{AfterMemory: 21 * v, HandshakeCPU: v, At(MessageCPU, "1500/s"): 120 * v})
		add(name, 0, map[string]float64{Posts: 6000 / v})
		add(name, 0, map[string]float64{BulkUp: 400 / v, BulkDown: 100 * v})
	}
	return r
}

func TestMarkdown(t *testing.T) {
	table := testRun().Markdown("ours")
	for _, want := range []string{
		"### 3,000 tunnels",
		"| Memory per tunnel after traffic, KiB | 42.0 | 63.0 | 21.0 |",
		"| Memory per tunnel after traffic | 0.50 (≤ 0.60 ✓) | 0.33 (≤ 0.20 ✗) | 0.50 |",
		"| POST /trace a second | 2.00 | 3.00 (≥ 1.80 ✓) | 2.00 |",
		"| Bulk to the relay, MB/s | 200 | 133 | 400 |",
		"| Bulk to the client | 0.50 | 0.33 (≥ 1.00 ✗) | 0.33 |",
		"| Memory per tunnel after traffic, KiB | ours | 20.0 | 21.0 | 1.05 (≤ 1.10 ✓) |",
		"| CPU per message, 1,500/s, µs | ours | 100 | 120 | 1.20 (≤ 1.10 ✗) |",
		"120 messages, posts and frames of bulk",
	} {
		if !strings.Contains(table, want) {
			t.Errorf("missing %q", want)
		}
	}
	if t.Failed() {
		t.Log(table)
	}
}

func TestPlotIsXML(t *testing.T) {
	plot := testRun().Plot("ours")
	for title, want := range map[string]bool{"Bulk to the relay": true, "CPU per MB of bulk": false} {
		if strings.Contains(plot, title) != want {
			t.Errorf("%q in the plot: %v, though it was measured: %v", title, !want, want)
		}
	}
	d := xml.NewDecoder(strings.NewReader(plot))
	for {
		if _, err := d.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
