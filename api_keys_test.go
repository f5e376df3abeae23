package watchrtcproxy

import (
	"net/url"
	"strings"
	"testing"
)

func TestAPIKeys(t *testing.T) {
	keys, err := newAPIKeys([]string{"good", "sl/ash", keyTokens})
	if err != nil {
		t.Fatal(err)
	}
	withoutTokens, err := newAPIKeys([]string{"good"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		query          string
		want, noTokens bool
	}{
		{"apiKey=good&timestamp=1&apiVersion=v1&sessionId=s&newConnection=true", true, true},
		{"timestamp=1&apiKey=good", true, true},
		{"apiKey=%67oo%64", true, true},
		{"%61piKey=good", true, true},
		{"&&apiKey=good&", true, true},
		{"apiKey=sl%2Fash", true, false},
		{"apiKey=sl/ash", true, false},
		{"token=anything", true, false},
		{"token=anything&timestamp=1", true, false},

		{"", false, false},
		{"timestamp=1", false, false},
		{"apiKey", false, false},
		{"apiKey=", false, false},
		{"token=", false, false},
		{"apiKey=bad", false, false},
		{"apiKey=Good", false, false},
		{"apiKey=good ", false, false},
		{"apiKey=good+", false, false},
		{"apiKey=good%00", false, false},
		{"apiKey=%2567ood", false, false},
		{"apiKey=good&apiKey=good", false, false},
		{"apiKey=good&apiKey=bad", false, false},
		{"apiKey=bad&apiKey=good", false, false},
		{"apiKey=good&%61piKey=bad", false, false},
		{"apiKey=good&token=x", false, false},
		{"token=x&apiKey=good", false, false},
		{"token=x&token=x", false, false},
		{"apikey=good", false, false},
		{"apiKey=good&apikey=bad", false, false},
		{"apiKey=good&APIKEY=bad", false, false},
		{"apiKey=good&Token=bad", false, false},
		{"apiKey=good&apiKey[]=bad", false, false},
		{"apiKey=good&apiKey%5B0%5D=bad", false, false},
		{"apiKey=good&[apiKey]=bad", false, false},
		{"apiKey=good&apiKey.x=bad", false, false},
		{"apiKey=good&+apiKey=bad", false, false},
		{"apiKey=good&api%00Key=bad", false, false},
		{"apiKey=good&api\u212aey=bad", false, false},
		{"apiKey=good;apiKey=bad", false, false},
		{"x=1;apiKey=bad&apiKey=good", false, false},
		{"apiKey=good&x=%3B", true, true},
		{"x=1#&apiKey=good", false, false},
		{"apiKey=good&x=%zz", false, false},
		{"apiKey=good&x=%", false, false},
		{"apiKey=good&%zz=1", false, false},
	} {
		if got := keys.allow(test.query); got != test.want {
			t.Errorf("%q is taken: %t, want %t", test.query, got, test.want)
		}
		if got := withoutTokens.allow(test.query); got != test.noTokens {
			t.Errorf("without tokens and other keys %q is taken: %t, want %t", test.query, got, test.noTokens)
		}
	}
	var all *apiKeys
	if !all.allow("apiKey=a&apiKey=b;%zz") {
		t.Error("without the option a query is looked at")
	}
}

func TestWantsKey(t *testing.T) {
	for path, want := range map[string]bool{
		"/get-qualityrtc-config": true, "/get-qualityrtc-config/": true, "/get-qualityrtc-config;x": true,
		"/GET-QualityRTC-Config": true, "/get-qualityrtc-confi%67": true, "/x/../get-qualityrtc-config": true,
		"/%2E/get-qualityrtc-config": true, "/GET-QUALITYRTC-CONFIG/\u00e9": true,
		"/trace": false, "/error": false, "/": false, "/get-qualityrtc": false,
	} {
		trip := &roundTrip{path: path}
		if got := trip.wantsKey(); got != want {
			t.Errorf("%s: %t, want %t", path, got, want)
		}
	}
	if trip := (&roundTrip{path: "/trace", webSocket: true}); !trip.wantsKey() {
		t.Error("a WebSocket needs no key")
	}
}

func TestAPIKeyMistakes(t *testing.T) {
	t.Setenv("TEST_KEY", "staging:5ecret")
	for word, want := range map[string]string{
		"":               "it is empty",
		"two keys":       "a key has no space in it",
		"key\n":          "a key has no space in it",
		"staging:abc":    `the SDK cuts "staging:" off a key before it sends it; write the key without it`,
		"production:abc": `the SDK cuts "production:" off`,
		"local:abc":      `the SDK cuts "local:" off`,
		"abc:def":        "the SDK sends a key only up to its colon",
		"{env.TEST_KEY}": `api_keys "{env.TEST_KEY}": the SDK cuts "staging:" off`,
		"{env.TEST_NOT}": "placeholders must be known when the configuration is loaded",
	} {
		_, err := newAPIKeys([]string{word})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "api_keys ") {
			t.Errorf("%q: %v, want %q in it", word, err, want)
		} else if strings.Contains(err.Error(), "5ecret") {
			t.Errorf("%q: the value of a placeholder is in %v", word, err)
		}
	}
}

// FuzzCredential has net/url read what is taken, as a relay may: it must find the same
// key or token, once, and nothing beside it. And what it reads without doubt is taken.
func FuzzCredential(f *testing.F) {
	for _, query := range []string{
		"apiKey=k&timestamp=1&sessionId=s", "token=t", "apiKey=k&token=t", "apiKey=a&apiKey=b", "apiKey=a;apiKey=b",
		"%61piKey=k%20", "apiKey=%zz", "apiKey=a+b", "x=apiKey=k", "=&apiKey", "apiKey[]=k&apiKey=k", "#apiKey=k",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		name, value, ok := credential(query)
		values, err := url.ParseQuery(query)
		if err != nil && strings.Contains(err.Error(), "number of") {
			return // more parameters than net/url takes
		}
		keys, tokens := values[paramKey], values[paramToken]
		if ok {
			found := append(keys, tokens...)
			if err != nil || len(found) != 1 || found[0] != value || values.Get(name) != value {
				t.Fatalf("%q is %s=%q, but net/url reads %q, %q, %v", query, name, value, keys, tokens, err)
			}
			return
		}
		if err != nil || len(keys)+len(tokens) != 1 || strings.Contains(query, "#") {
			return
		}
		for other := range values {
			if other != paramKey && other != paramToken && resemblesCredential(other) {
				return
			}
		}
		t.Fatalf("%q is not taken, but net/url reads %q, %q", query, keys, tokens)
	})
}
