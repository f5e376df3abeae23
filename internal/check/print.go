package check

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Printer writes a check as people read it. Its zero value is of no use: W is needed.
type Printer struct {
	W io.Writer

	// Colour and Progress are for terminals: the colours of ECMA-48, and a line
	// that says which step is under way and is overwritten.
	Colour, Progress bool
}

// Begin writes what is checked.
func (p *Printer) Begin(o Options) { fmt.Fprintf(p.W, "%s\n\n", o.URL) }

// Step is an Options.Watch.
func (p *Printer) Step(step Step) {
	if step.Status == "" {
		if p.Progress {
			fmt.Fprintf(p.W, "%-10s  …", step.Name)
		}
		return
	}
	if p.Progress {
		fmt.Fprint(p.W, eraseLine)
	}
	took := ""
	if step.Took > 0 {
		took = Milliseconds(step.Took)
	}
	line := fmt.Sprintf("%-10s  %s  %9s  %s", step.Name, p.status(step.Status), took, step.Detail)
	fmt.Fprintln(p.W, strings.TrimRight(line, " "))
}

// End writes the verdict and what to do.
func (p *Printer) End(report Report) {
	status := OK
	if !report.OK() {
		status = Failed
	}
	fmt.Fprintf(p.W, "\n%s  %s\n", p.status(status), report.Verdict())
	p.ToDo(report)
}

// ToDo writes what to do.
func (p *Printer) ToDo(report Report) {
	for _, hint := range report.ToDo() {
		fmt.Fprintf(p.W, "  - %s\n", hint)
	}
}

// Line writes a check in one line, for those that come again and again.
func (p *Printer) Line(n int, at time.Time, report Report) {
	status, text := OK, fmt.Sprintf("websocket %s, greeting %s", took(report, StepWebSocket), took(report, StepGreeting))
	if step := report.first(Failed); step != nil {
		status, text = Failed, step.Name+": "+step.Detail
	}
	fmt.Fprintf(p.W, "%s  #%-4d  %s  %s\n", at.Format(time.TimeOnly), n, p.status(status), text)
}

func took(report Report, name string) string {
	if d := report.Took(name); d > 0 {
		return Milliseconds(d)
	}
	return string(NotTested)
}

// Milliseconds writes a time as reports have it.
func Milliseconds(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

const eraseLine = "\r\x1b[K"

var colours = map[Status]string{OK: "\x1b[32m", Failed: "\x1b[31m", NotTested: "\x1b[33m"}

func (p *Printer) status(status Status) string {
	text := fmt.Sprintf("%-10s", status)
	if !p.Colour {
		return text
	}
	return colours[status] + text + "\x1b[0m"
}
