package watchrtcproxy

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// escapedPath is u.EscapedPath, but what is escaped stays so also in a path with
// bytes that should be and are not.
func escapedPath(u *url.URL) string {
	whole := u.EscapedPath()
	if plain, err := url.PathUnescape(u.RawPath); u.RawPath == "" || err != nil || plain != u.Path {
		return whole
	}
	if whole == u.RawPath {
		return whole
	}
	var path strings.Builder
	pieces := strings.Split(u.RawPath, "%")
	path.WriteString((&url.URL{Path: pieces[0]}).EscapedPath())
	for _, piece := range pieces[1:] {
		path.WriteString("%" + piece[:2])
		path.WriteString((&url.URL{Path: piece[2:]}).EscapedPath())
	}
	return path.String()
}

// cutMount returns the rest of an escaped path after the mount, beginning with
// one slash: the SDK makes two of it when its proxyUrl ends in one.
func cutMount(escapedPath, mount string) (rest string, ok bool) {
	rest, ok = cutEscaped(escapedPath, mount)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return "/" + strings.TrimLeft(rest, "/"), true
}

// cutEscaped cuts the unescaped prefix off an escaped path. Like Caddy's path
// matcher it does not tell upper from lower case.
func cutEscaped(escapedPath, prefix string) (rest string, ok bool) {
	if len(prefix) > len(escapedPath) {
		return "", false
	}
	if strings.EqualFold(escapedPath[:len(prefix)], prefix) {
		return escapedPath[len(prefix):], true
	}
	// The path may have escaped what it need not.
	for i := len(prefix); i <= len(escapedPath); i++ {
		head, err := url.PathUnescape(escapedPath[:i])
		if err == nil && len(head) == len(prefix) {
			return escapedPath[i:], strings.EqualFold(head, prefix)
		}
	}
	return "", false
}

// validMount reports whether prefix can be a mount point.
func validMount(prefix string) bool {
	return strings.HasPrefix(prefix, "/") && !strings.HasSuffix(prefix, "/") && !strings.ContainsAny(prefix, "*?#{%")
}

// parseMount reads a matcher token as a mount point: /path, /path* and /path/*
// mean the same. Any other matcher is none.
func parseMount(token string) (mount string, ok bool) {
	if !strings.HasPrefix(token, "/") {
		return "", false
	}
	mount = strings.TrimSuffix(token, "*")
	mount = strings.TrimRight(mount, "/")
	if mount == "" {
		return "", true
	}
	return mount, validMount(mount)
}

// neverMatches reports whether a matcher token is a path that no request can have.
func neverMatches(token string) bool {
	return strings.HasPrefix(token, "/") && strings.ContainsAny(token, "?#")
}

// lacksSlash reports whether the first argument is a mount rather than an upstream: a
// word that is neither a matcher nor a slip of a preset's name.
func lacksSlash(token string) bool {
	names := slices.Sorted(maps.Keys(presets))
	return token != "" && !strings.ContainsAny(token, "@*/.:{?# ") && !slices.Contains(names, token) && nearest(token, names) == ""
}

// climbs reports whether dot segments in an escaped path may lead above its beginning.
// Some resolve them before they unescape, some after, some twice, some take \ for /, and
// some leave out what follows a ; in a segment (RFC 3986, section 3.3):
// ".." counts for each segment that any of them sees, and what lies between two plain
// slashes for one level at most. No browser sends such a path.
func climbs(escapedPath string) bool {
	if !strings.Contains(unescaped(escapedPath), "..") {
		return false
	}
	depth := 0
	for whole := range strings.SplitSeq(escapedPath, "/") {
		level := 1
		for segment := range strings.FieldsFuncSeq(unescaped(whole), isSlash) {
			segment, _, _ = strings.Cut(segment, ";")
			switch segment {
			case ".", "":
			case "..":
				if depth--; depth < 0 {
					return true
				}
			default:
				depth += level
				level = 0
			}
		}
	}
	return false
}

func isSlash(r rune) bool { return r == '/' || r == '\\' }

// unescaped returns a path as it is where it cannot be unescaped.
func unescaped(escapedPath string) string {
	path, err := url.PathUnescape(escapedPath)
	if err != nil {
		return escapedPath
	}
	return path
}
