package watchrtcproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/check"
)

// leastEvery keeps checks, each of which opens a WebSocket at the relay, apart.
const leastEvery = time.Second

// checking is one run of `caddy watchrtc-check`.
type checking struct {
	options check.Options
	count   int           // 0: until interrupted
	every   time.Duration // from one check to the next
	json    bool
	printer check.Printer
}

func runCheck(cmd *cobra.Command, args []string) error {
	c, err := parseCheck(cmd.Flags(), args)
	if err != nil {
		return wrongUsage(cmd, err)
	}
	c.printer = printerTo(cmd.OutOrStdout())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !c.run(ctx) {
		return exitStatus(cmd, 1)
	}
	return nil
}

func parseCheck(flags *pflag.FlagSet, args []string) (*checking, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("want one URL, such as wss://relay-proxy.example.com/websocket, but there are %d", len(args))
	}
	c := &checking{count: 1, every: leastEvery}
	var err error
	if c.options.URL, err = check.ParseURL(args[0]); err != nil {
		return nil, err
	}
	c.options.APIKey = flags.Lookup("api-key").Value.String()
	c.options.Token = flags.Lookup("token").Value.String()
	if c.options.APIKey != "" && c.options.Token != "" {
		return nil, errors.New("--api-key and --token: want one of them, as the SDK sends one")
	}
	if origin := flags.Lookup("origin").Value.String(); origin != "" {
		if c.options.Origin, err = check.ParseOrigin(origin); err != nil {
			return nil, err
		}
	}
	c.options.Insecure, _ = flags.GetBool("insecure")
	c.json, _ = flags.GetBool("json")
	return c, c.parseRepetition(flags)
}

func (c *checking) parseRepetition(flags *pflag.FlagSet) error {
	if every := flags.Lookup("every"); every.Changed {
		d, err := caddy.ParseDuration(every.Value.String())
		if err != nil || d < leastEvery {
			return fmt.Errorf("--every %q: want a duration such as 10s, 1s at least", every.Value)
		}
		c.every, c.count = d, 0
	}
	if flags.Changed("count") {
		if c.count, _ = flags.GetInt("count"); c.count < 1 {
			return fmt.Errorf("--count %d: want a number above 0", c.count)
		}
	}
	return nil
}

func printerTo(out io.Writer) check.Printer {
	p := check.Printer{W: out}
	file, isFile := out.(*os.File)
	if !isFile || !term.IsTerminal(int(file.Fd())) || os.Getenv("TERM") == "dumb" {
		return p
	}
	if runtime.GOOS == "windows" && os.Getenv("WT_SESSION") == "" {
		return p // the old console shows control sequences as they are
	}
	p.Progress, p.Colour = true, os.Getenv("NO_COLOR") == ""
	return p
}

// run checks until it is through or ctx ends, and reports whether all went well. A
// check that is interrupted does not count.
func (c *checking) run(ctx context.Context) (ok bool) {
	var sum summary
	next := time.NewTicker(c.every)
	defer next.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		report := c.once(ctx, n)
		if ctx.Err() != nil {
			break
		}
		c.show(n, report, &sum)
		sum.add(report)
		if n == c.count {
			break
		}
		select {
		case <-next.C:
		case <-ctx.Done():
		}
	}
	if !c.json {
		if ctx.Err() != nil {
			fmt.Fprintln(c.printer.W, "\ninterrupted")
		}
		if c.count != 1 && sum.checks > 0 {
			fmt.Fprintf(c.printer.W, "\n%s\n", &sum)
		}
	}
	return sum.checks > 0 && sum.failed == 0
}

// once checks once. People see the first check's steps as they go.
func (c *checking) once(ctx context.Context, n int) check.Report {
	options := c.options
	if n == 1 && !c.json {
		c.printer.Begin(options)
		options.Watch = func(step check.Step) {
			if ctx.Err() == nil { // or it only says that it was interrupted
				c.printer.Step(step)
			}
		}
	}
	return check.Run(ctx, options)
}

func (c *checking) show(n int, report check.Report, before *summary) {
	switch {
	case c.json:
		line, err := json.Marshal(report)
		if err != nil {
			panic(err) // it is made of texts and numbers
		}
		fmt.Fprintf(c.printer.W, "%s\n", line)
	case n == 1:
		c.printer.End(report)
		if c.count != 1 {
			fmt.Fprintln(c.printer.W)
		}
	default:
		c.printer.Line(n, time.Now(), report)
		if report.Verdict() != before.verdict {
			c.printer.ToDo(report)
		}
	}
}

// summary is what ping writes at its end.
type summary struct {
	checks, failed     int
	opened             int // WebSockets
	least, total, most time.Duration
	verdict            string // the last one
}

func (s *summary) add(report check.Report) {
	s.checks++
	s.verdict = report.Verdict()
	if !report.OK() {
		s.failed++
	}
	if took := report.Took(check.StepWebSocket); took > 0 {
		if s.opened++; s.opened == 1 {
			s.least = took
		}
		s.least, s.most, s.total = min(s.least, took), max(s.most, took), s.total+took
	}
}

func (s *summary) String() string {
	text := fmt.Sprintf("%d checks, %d failed", s.checks, s.failed)
	if s.checks == 1 {
		text = fmt.Sprintf("1 check, %d failed", s.failed)
	}
	if s.opened == 0 {
		return text
	}
	return fmt.Sprintf("%s; websocket least %s, mean %s, most %s", text, check.Milliseconds(s.least),
		check.Milliseconds(s.total/time.Duration(s.opened)), check.Milliseconds(s.most))
}
