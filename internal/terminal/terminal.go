// Package terminal is for what is printed of others' words.
package terminal

import (
	"strings"
	"unicode"
)

// Printable returns text as a terminal may get it: without what it could take for a
// command, and at most max runes long.
func Printable(text string, max int) string {
	var out strings.Builder
	n := 0
	for _, c := range text {
		if n++; n > max {
			out.WriteString("…")
			break
		}
		if !unicode.IsPrint(c) {
			c = '\uFFFD'
		}
		out.WriteRune(c)
	}
	return out.String()
}
