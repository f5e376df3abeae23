package watchrtcproxy

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
)

// The parameters with which a client shows who it is.
const (
	paramKey   = "apiKey"
	paramToken = "token"
)

// keyTokens in api_keys stands for requests with a token.
const keyTokens = "tokens"

// keyForms is what every error about a key says is accepted.
const keyForms = "want a key as the SDK sends it, or tokens for requests with a token instead of a key"

// apiKeys are those whose requests are taken. nil takes all.
type apiKeys struct {
	keys   map[string]bool
	tokens bool
}

func newAPIKeys(words []string) (*apiKeys, error) {
	if len(words) == 0 {
		return nil, nil
	}
	k := &apiKeys{keys: make(map[string]bool)}
	return k, eachValue("api_keys", words, k.add)
}

// add takes a key that the configuration names.
func (k *apiKeys) add(key string) error {
	if key == keyTokens {
		k.tokens = true
		return nil
	}
	k.keys[key] = true
	return checkKey(key)
}

func checkKey(key string) error {
	why := ""
	switch first, _, colon := strings.Cut(key, ":"); {
	case key == "":
		why = "it is empty"
	case strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c == 0x7f }):
		why = "a key has no space in it"
	case colon && namesEnvironment(first):
		why = fmt.Sprintf("the SDK cuts %q off a key before it sends it; write the key without it", first+":")
	case colon:
		why = "the SDK sends a key only up to its colon; write that much of it"
	default:
		return nil
	}
	return fmt.Errorf("%s; %s", why, keyForms)
}

// namesEnvironment reports whether the SDK takes what is before the colon of a key for
// an environment of the vendor's, and not for the key.
func namesEnvironment(prefix string) bool {
	for _, environment := range []string{"local", "staging", "production"} {
		if strings.Contains(prefix, environment) {
			return true
		}
	}
	return false
}

// allow reports whether a request with this query is taken.
func (k *apiKeys) allow(query string) bool {
	if k == nil {
		return true
	}
	name, value, ok := credential(query)
	switch {
	case !ok || value == "":
		return false
	case name == paramToken:
		return k.tokens
	}
	return k.keys[value]
}

// credential returns the one key or token in a query. It is not ok where there is none
// or more than one, or where servers may read the query in more than one way: as this
// cannot know which one the relay is, it takes only what all read alike.
//
// Names and values are decoded once (application/x-www-form-urlencoded). Some servers
// take ; for &, and # for the end; some read a bad escape as it stands; and some take
// apikey, apiKey[] or apiKey.x for apiKey.
func credential(query string) (name, value string, ok bool) {
	if strings.ContainsAny(query, ";#") {
		return "", "", false
	}
	for pair := range strings.SplitSeq(query, "&") {
		escapedName, escapedValue, _ := strings.Cut(pair, "=")
		thisName, err := url.QueryUnescape(escapedName)
		if err != nil {
			return "", "", false
		}
		thisValue, err := url.QueryUnescape(escapedValue)
		if err != nil {
			return "", "", false
		}
		if !resemblesCredential(thisName) {
			continue
		}
		if name != "" || thisName != paramKey && thisName != paramToken {
			return "", "", false
		}
		name, value = thisName, thisValue
	}
	return name, value, name != ""
}

// resemblesCredential reports whether some server may take name for that of a key or
// token, as it is or followed by what makes it one of a list.
func resemblesCredential(name string) bool {
	letters := strings.Map(func(c rune) rune {
		if c = unicode.ToLower(c); c < 'a' || 'z' < c {
			return -1
		}
		return c
	}, name)
	return strings.HasPrefix(letters, "apikey") || strings.HasPrefix(letters, paramToken)
}

// configPath is where the SDK gets the configuration of its network test, with its key.
const configPath = "get-qualityrtc-config"

// wantsKey reports whether a request carries a key: it opens a WebSocket, or is one
// that some server may take for that of the configuration. The SDK's other requests
// carry none.
func (t *roundTrip) wantsKey() bool {
	if t.webSocket {
		return true
	}
	path, err := url.PathUnescape(t.path)
	return err != nil || strings.Contains(strings.ToLower(path), configPath)
}
