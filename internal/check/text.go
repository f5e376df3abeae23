package check

import (
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/terminal"
)

// maxText bounds, in runes, what is repeated of a text of the server's.
const maxText = 100

var queries = regexp.MustCompile(`[?#]\S*`)

// quote returns a text of the server's as it may be printed: short, without control
// characters, queries, and whatever of the keys the server repeats.
func (r *run) quote(text string) string {
	for _, key := range []string{r.APIKey, r.Token} {
		if key == "" {
			continue
		}
		for _, form := range []string{key, url.QueryEscape(key), url.PathEscape(key)} {
			text = regexp.MustCompile(`(?i)`+regexp.QuoteMeta(form)).ReplaceAllLiteralString(text, "REDACTED")
		}
	}
	return terminal.Printable(queries.ReplaceAllLiteralString(text, "…"), maxText)
}

// long writes a duration in days, hours or minutes, whichever fits.
func long(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}} {
		if n := int64(d / unit.size); n > 0 {
			return plural(n, unit.name)
		}
	}
	return plural(int64(d/time.Minute), "minute")
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
