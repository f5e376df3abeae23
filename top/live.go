package top

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/gdamore/tcell/v3"
	"github.com/gdamore/tcell/v3/color"
)

// polled is the outcome of a poll.
type polled struct {
	sample *sample
	err    error
}

// show runs the view until the user quits or ctx ends.
func (w *watch) show(ctx context.Context, screen tcell.Screen, m *model) error {
	tcell.SetEncodingFallback(tcell.EncodingFallbackASCII) // for locales that are neither
	if err := screen.Init(); err != nil {
		return err
	}
	defer screen.Fini()
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan polled)
	polling := false
	defer func() {
		cancel()
		if polling {
			<-results
		}
	}()
	for {
		draw(screen, m)
		var due <-chan time.Time
		if !polling && !m.paused {
			due = w.due()
		}
		select {
		case <-ctx.Done():
			return nil
		case event, open := <-screen.EventQ():
			if !open || m.handle(screen, event) {
				return nil
			}
		case <-due:
			polling = true
			go func() {
				s, err := w.poll(ctx)
				results <- polled{s, err}
			}()
		case p := <-results:
			polling = false
			if m.paused { // since it was asked
				continue
			}
			m.update(w.address, p.sample, p.err, time.Now())
		}
	}
}

// handle does what a key says, and reports whether that is to quit.
func (m *model) handle(screen tcell.Screen, event tcell.Event) (quit bool) {
	switch event := event.(type) {
	case *tcell.EventResize:
		screen.Sync()
	case *tcell.EventKey:
		switch {
		case event.Key() == tcell.KeyCtrlC, event.Key() == tcell.KeyEscape, event.Str() == "q":
			return true
		case event.Key() == tcell.KeyCtrlL:
			screen.Sync()
		case event.Str() == "p", event.Str() == " ":
			m.paused = !m.paused
		}
	}
	return false
}

var styles = map[look]tcell.Style{
	plain:   tcell.StyleDefault,
	title:   tcell.StyleDefault.Bold(true),
	faint:   tcell.StyleDefault.Dim(true),
	graph:   tcell.StyleDefault.Foreground(color.Teal),
	good:    tcell.StyleDefault.Foreground(color.Green),
	warning: tcell.StyleDefault.Bold(true).Foreground(color.Olive),
	bad:     tcell.StyleDefault.Bold(true).Foreground(color.Maroon),
}

func draw(screen tcell.Screen, m *model) {
	width, height := screen.Size()
	screen.Clear()
	for y, l := range m.view(width, height) {
		x := 0
		for _, s := range l {
			screen.PutStrStyled(x, y, s.text, styles[s.look])
			x += len([]rune(s.text))
		}
	}
	screen.HideCursor()
	screen.Show()
}

// localeCharset is ASCII unless the locale has UTF-8. Without any locale it may be a
// script's, or cron's: POSIX's default is ASCII.
func localeCharset() charset {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := os.Getenv(name); locale != "" {
			locale = strings.ToLower(locale)
			if strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") {
				return unicodeSet
			}
			return asciiSet
		}
	}
	return asciiSet
}
