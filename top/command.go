// Package top has the command `caddy watchrtc-top`, a live view of a watchrtc_proxy
// from the admin API. Whoever imports it has the command; the plugin does not, as most
// servers have no use for a terminal's library.
package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/gdamore/tcell/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "watchrtc-top",
		Usage: "[--address <admin>] [--once] [--json]",
		Short: "Shows live what a watchRTC proxy carries",
		Long: `
Shows a running proxy's tunnels, handshakes, messages and bytes, how tunnels have
ended, relays, drains, and the tunnels that are busiest and longest idle. It asks the
admin API every 2 seconds, and changes nothing. q quits, p pauses.

--address is the admin API's, such as localhost:2019, the default, or
unix//run/caddy/admin.sock.

--once writes the figures as plain text and ends. --json writes one line of JSON
each 2 seconds, or with --once one. Either takes 2 seconds, as rates need two looks.

NO_COLOR turns colours off. Where the locale has no UTF-8 (LC_ALL, LC_CTYPE, LANG),
everything is ASCII.

The exit status is 1 if the admin API does not respond, or not as one with
watchrtc_proxy does. Once the view is there it waits for it to come back.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().StringP("address", "", caddy.DefaultAdminListen, "Address of the admin API")
			cmd.Flags().BoolP("once", "", false, "Write the figures once")
			cmd.Flags().BoolP("json", "", false, "Write JSON")
			cmd.Args = cobra.NoArgs
			cmd.ValidArgsFunction = cobra.NoFileCompletions
			cmd.RunE = run
		},
	})
}

func run(cmd *cobra.Command, _ []string) error {
	address := cmd.Flag("address").Value.String()
	once, asJSON := cmd.Flag("once").Value.String() == "true", cmd.Flag("json").Value.String() == "true"
	client, err := newClient(address)
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	w := &watch{address: address, client: client, out: cmd.OutOrStdout(), every: interval}
	switch {
	case asJSON && once:
		return w.once(ctx, w.writeJSON)
	case asJSON:
		return w.stream(ctx)
	case once:
		return w.once(ctx, w.writeText)
	}
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		return errors.New("the output is no terminal: use --once or --json")
	}
	return w.live(ctx)
}

// watch is one run of the command.
type watch struct {
	address string
	client  *adminapi.Client
	out     io.Writer
	every   time.Duration // from one poll to the next, at least
	begun   time.Time     // the latest poll
}

// listed is how many tunnels of each kind are written where no terminal's height says.
const listed = 10

// textWidth has room for an IPv6 address in full and a session ID that is a UUID.
const textWidth = 132

// due is when the next poll may begin.
func (w *watch) due() <-chan time.Time { return time.After(w.every - time.Since(w.begun)) }

// poll asks when that is due.
func (w *watch) poll(ctx context.Context) (*sample, error) {
	select {
	case <-ctx.Done():
		return nil, errors.New("interrupted")
	case <-w.due():
	}
	w.begun = time.Now()
	return poll(ctx, w.client)
}

// once compares two polls.
func (w *watch) once(ctx context.Context, write func(before, now *sample) error) error {
	before, err := w.poll(ctx)
	if err != nil {
		return err
	}
	now, err := w.poll(ctx)
	if err != nil {
		return err
	}
	return write(before, now)
}

func (w *watch) writeText(before, now *sample) error {
	m := &model{charset: localeCharset()}
	m.update(w.address, before, nil, before.at)
	m.update(w.address, now, nil, now.at)
	m.report.first(listed)
	for _, l := range m.text(textWidth) {
		if _, err := fmt.Fprintln(w.out, strings.TrimRight(l.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

func (w *watch) writeJSON(before, now *sample) error {
	r := newReport(w.address, before, now)
	r.first(listed)
	return json.NewEncoder(w.out).Encode(r)
}

// stream writes a report for each poll, and the error instead where one fails. The first
// must not.
func (w *watch) stream(ctx context.Context) error {
	before, err := w.poll(ctx)
	if err != nil {
		return err
	}
	for {
		now, err := w.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // interrupted
		case err != nil:
			err = json.NewEncoder(w.out).Encode(failedPoll{time.Now(), w.address, err.Error()})
		default:
			err = w.writeJSON(before, now)
			before = now
		}
		if err != nil {
			return err
		}
	}
}

// failedPoll is what --json writes where the admin API does not respond.
type failedPoll struct {
	Time    time.Time `json:"time"`
	Address string    `json:"address"`
	Error   string    `json:"error"`
}

func (w *watch) live(ctx context.Context) error {
	s, err := w.poll(ctx)
	if err != nil {
		return err
	}
	m := &model{charset: localeCharset()}
	m.update(w.address, s, nil, s.at)
	// No questions to the terminal: over a slow line the responses could come after the end.
	screen, err := tcell.NewTerminfoScreen(tcell.OptNegotiation(false), tcell.OptSanitizeContent(true))
	if err != nil {
		return err
	}
	return w.show(ctx, screen, m)
}
