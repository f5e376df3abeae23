package watchrtcproxy

import (
	"fmt"
	"strings"
)

// didYouMean is the part of an error that names the word which is meant, or empty.
func didYouMean(word string, words []string) string {
	if near := nearest(word, words); near != "" {
		return fmt.Sprintf("did you mean %q? ", near)
	}
	return ""
}

// nearest returns the one of words that word is a slip of: two letters wrong, missing
// or too many at most, and no more than a third of them; or the beginning of it. It
// returns "" if there is none.
func nearest(word string, words []string) string {
	const longest = 64 // what is longer is no slip, and would take long to compare
	word = strings.ToLower(word)
	if len(word) > longest {
		return ""
	}
	best, least := "", 3
	for _, candidate := range words {
		distance := editDistance(word, candidate)
		if len(word) >= 3 && strings.HasPrefix(candidate, word) {
			distance = 1
		}
		if distance < least && 3*distance <= len(candidate) {
			best, least = candidate, distance
		}
	}
	return best
}

// editDistance counts the bytes to insert, delete or replace to make b of a
// (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
