package integration_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMonitoringMetrics: every metric, label and label's value in the rules, on the
// dashboard and in the documentation's queries is one that the module has, and each metric
// of its own is documented.
func TestMonitoringMetrics(t *testing.T) {
	relay := newServer(t)
	s := mount(relay.upstream)
	s.body += scraped
	p := start(t, s)
	p.open(t, http1, target, "").close(t, 1000) // the certificate is seen then
	_, page := ask(t, p.client(t, http1), request(t, http.MethodGet, p.url("/metrics"), nil))
	series := seriesOf(page)
	documented := readFile(t, "../docs/observability.md")

	rules := readFile(t, "../examples/monitoring/rules.yml")
	recorded := recordedBy(rules)
	for place, expr := range map[string]string{
		"rules.yml":        rules,
		"dashboard.json":   strings.Join(panelQueries(t), "\n"),
		"runbook.md":       promQL(readFile(t, "../docs/runbook.md")),
		"observability.md": promQL(documented),
	} {
		used := selectors(expr)
		if len(used) == 0 {
			t.Errorf("%s has no metric", place)
		}
		for _, s := range used {
			checkSelector(t, place, s, series, documented)
		}
		for _, name := range recordedName.FindAllString(expr, -1) {
			if !recorded[name] {
				t.Errorf("%s: no rule records %s", place, name)
			}
		}
		for _, match := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, label := range labelName.FindAllString(match[1], -1) {
				if !isAdded(label) && !hasLabel(series, label) {
					t.Errorf("%s: no metric has the label %s", place, label)
				}
			}
		}
	}
}

var (
	recordedName = regexp.MustCompile(`\binstance\w*:watchrtc_\w+:\w+`)
	promQLBlock  = regexp.MustCompile("(?s)```promql\n(.*?)```")
	record       = regexp.MustCompile(`(?m)^\s*- record: (\S+)$`)
	grouping     = regexp.MustCompile(`\b(?:by|on|ignoring|without) \(([^)]*)\)`)
	labelName    = regexp.MustCompile(`\w+`)
	selecting    = regexp.MustCompile(`\b((?:caddy_watchrtc_proxy|process|go)_\w+)(?:\{([^}]*)\})?`)
	matching     = regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`)
	seriesLine   = regexp.MustCompile(`(?m)^(\w+)(?:\{(.*)\})? \S+$`)
)

// promQL are the queries of a page.
func promQL(page string) (all string) {
	for _, match := range promQLBlock.FindAllStringSubmatch(page, -1) {
		all += match[1]
	}
	return all
}

// selector is a metric as a query names it.
type selector struct {
	metric   string
	matchers [][]string // label, operator, value
}

func selectors(expr string) (all []selector) {
	for _, match := range selecting.FindAllStringSubmatch(expr, -1) {
		s := selector{metric: match[1]}
		for _, m := range matching.FindAllStringSubmatch(match[2], -1) {
			s.matchers = append(s.matchers, m[1:])
		}
		all = append(all, s)
	}
	return all
}

// seriesOf returns the labels of each series, by metric.
func seriesOf(page string) map[string][]map[string]string {
	all := make(map[string][]map[string]string)
	for _, match := range seriesLine.FindAllStringSubmatch(page, -1) {
		labels := make(map[string]string)
		for _, m := range matching.FindAllStringSubmatch(match[2], -1) {
			labels[m[1]] = m[3]
		}
		all[match[1]] = append(all[match[1]], labels)
	}
	return all
}

func checkSelector(t *testing.T, place string, s selector, series map[string][]map[string]string, documented string) {
	t.Helper()
	own, isOwn := strings.CutPrefix(s.metric, "caddy_watchrtc_proxy_")
	inDocs := strings.Contains(documented, "\n| `"+strings.TrimSuffix(own, "_bucket")+"` |")
	if isOwn && !inDocs {
		t.Errorf("%s: %s is not in docs/observability.md", place, s.metric)
	}
	if len(series[s.metric]) == 0 {
		t.Errorf("%s: there is no metric %s", place, s.metric)
	}
	for _, matcher := range s.matchers {
		label, value := matcher[0], matcher[2]
		if isAdded(label) || strings.HasPrefix(value, "$") {
			continue
		}
		for _, one := range strings.Split(value, "|") {
			if !slices.ContainsFunc(series[s.metric], func(labels map[string]string) bool { return labels[label] == one }) {
				t.Errorf("%s: %s is nowhere with %s=%q", place, s.metric, label, one)
			}
		}
	}
}

// isAdded tells Prometheus's labels from those of the metrics.
func isAdded(label string) bool { return label == "job" || label == "instance" }

func hasLabel(series map[string][]map[string]string, label string) bool {
	for metric, all := range series {
		if !strings.HasPrefix(metric, "caddy_watchrtc_proxy_") {
			continue
		}
		for _, labels := range all {
			if _, ok := labels[label]; ok {
				return true
			}
		}
	}
	return false
}

func recordedBy(rules string) map[string]bool {
	recorded := make(map[string]bool)
	for _, match := range record.FindAllStringSubmatch(rules, -1) {
		recorded[match[1]] = true
	}
	return recorded
}

// panelQueries are the dashboard's expressions, those of its variables included.
func panelQueries(t *testing.T) (all []string) {
	t.Helper()
	type query struct{ Expr string }
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []query
		}
		Templating struct {
			List []struct{ Query json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "../examples/monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("the panel %q has no query", panel.Title)
		}
		for _, target := range panel.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, variable := range dashboard.Templating.List {
		var q struct{ Query string }
		if json.Unmarshal(variable.Query, &q) == nil { // the data source's is a string
			all = append(all, q.Query)
		}
	}
	return all
}

// TestRunbook: each alert has an entry in the runbook, which its annotation leads to, is
// in the example's README, and fires in the rules' own tests; there are no others.
func TestRunbook(t *testing.T) {
	rules := readFile(t, "../examples/monitoring/rules.yml")
	runbook := readFile(t, "../docs/runbook.md")
	page := readFile(t, "../examples/monitoring/README.md")
	tests := readFile(t, "../examples/monitoring/rules_test.yml")
	var alerts []string
	for _, part := range strings.Split(rules, "- alert: ")[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		alerts = append(alerts, name)
		for what, ok := range map[string]bool{
			"a runbook_url":            strings.Contains(rest, "docs/runbook.md#"+strings.ToLower(name)+"\n"),
			"an entry in the runbook":  strings.Contains(runbook, "\n## "+name+"\n"),
			"a row in the README":      strings.Contains(page, "\n| `"+name+"` |"),
			"a test in which it fires": strings.Contains(tests, "alertname: "+name+"\n        exp_alerts:\n"),
		} {
			if !ok {
				t.Errorf("%s lacks %s", name, what)
			}
		}
	}
	for _, match := range regexp.MustCompile("(?m)^(?:## |\\| `)(WatchRTC\\w+)").FindAllStringSubmatch(runbook+page, -1) {
		if !slices.Contains(alerts, match[1]) {
			t.Errorf("no rule has the alert %s", match[1])
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
