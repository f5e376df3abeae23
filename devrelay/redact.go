package devrelay

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// redacted stands where a secret was.
const redacted = "…"

// secretField finds the JSON members that can hold an API key or token; a value
// cut short counts. projectId is among them since the SDK sends its key under
// that name until it knows the project.
var secretField = regexp.MustCompile(`(?i)("(?:apiKey|rtcApiKey|token|rtcToken|projectId)"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|\\?$)`)

// redactText hides the secrets in a message or body: the members known to hold
// one, and every occurrence of those the request itself carried.
func redactText(text string, request Request) string {
	text = secretField.ReplaceAllString(text, `$1"`+redacted+`"`)
	for _, secret := range secretsOf(request.URI) {
		text = strings.ReplaceAll(text, secret, redacted)
	}
	return text
}

// plainParams are the query parameters shown with their value.
var plainParams = []string{"timestamp", "apiVersion", "sessionId", "newConnection"}

// redactURI shows a request's path and the names of its parameters, and the
// values of those only that are known to be no secret.
func redactURI(uri string) string {
	path, rawQuery, found := strings.Cut(uri, "?")
	if !found {
		return path
	}
	params := strings.Split(rawQuery, "&")
	for i, param := range params {
		name, _, hasValue := strings.Cut(param, "=")
		if hasValue && !slices.Contains(plainParams, name) {
			params[i] = name + "=" + redacted
		}
	}
	return path + "?" + strings.Join(params, "&")
}

// shortestSecret keeps a placeholder key, such as k, from blanking every k.
const shortestSecret = 8

// secretsOf returns the API keys and tokens in a request's query.
func secretsOf(uri string) []string {
	query := queryOf(uri)
	return slices.DeleteFunc(slices.Concat(query["apiKey"], query["token"]), func(secret string) bool {
		return len(secret) < shortestSecret
	})
}

// queryOf returns what can be parsed of a request URI's query.
func queryOf(uri string) url.Values {
	_, rawQuery, _ := strings.Cut(uri, "?")
	query, _ := url.ParseQuery(rawQuery)
	return query
}
