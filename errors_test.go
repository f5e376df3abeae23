package watchrtcproxy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAllowPreflight(t *testing.T) {
	preflight := http.Header{
		"Origin":                         {"https://app.example"},
		"Access-Control-Request-Method":  {"POST"},
		"Access-Control-Request-Headers": {"content-type"},
	}
	for _, test := range []struct {
		name   string
		method string
		header http.Header
		status int
		origin string // the one that is allowed; empty for any
		want   int    // 0: the refusal stands
	}{
		{"relay down", http.MethodOptions, preflight, http.StatusBadGateway, "", http.StatusNoContent},
		{"key not allowed", http.MethodOptions, preflight, http.StatusForbidden, "https://app.example", http.StatusNoContent},
		{"origin not allowed", http.MethodOptions, preflight, http.StatusForbidden, "https://other.example", 0},
		{"origin not allowed, relay down", http.MethodOptions, preflight, http.StatusBadGateway, "https://other.example", 0},
		{"not OPTIONS", http.MethodPost, preflight, http.StatusBadGateway, "", 0},
		{"OPTIONS of no browser", http.MethodOptions, http.Header{}, http.StatusBadGateway, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest(test.method, "/trace", nil)
			r.Header = test.header
			w := httptest.NewRecorder()
			h := new(Handler)
			if test.origin != "" {
				h.admission.origins = &origins{exact: map[string]bool{test.origin: true}}
			}
			trip := &roundTrip{h: h, w: w, r: r}
			err := trip.refuse(&refusal{status: test.status, err: errors.New("refused")})
			if stands := err != nil; stands != (test.want == 0) {
				t.Fatalf("the refusal stands: %v", stands)
			}
			if test.want == 0 {
				return
			}
			checkPreflightResponse(t, w.Result())
		})
	}
}

func checkPreflightResponse(t *testing.T, response *http.Response) {
	t.Helper()
	if response.StatusCode != http.StatusNoContent {
		t.Errorf("status %d, want 204", response.StatusCode)
	}
	for field, want := range map[string]string{
		"Access-Control-Allow-Origin":  "https://app.example",
		"Access-Control-Allow-Methods": "POST",
		"Access-Control-Allow-Headers": "content-type",
		"Access-Control-Max-Age":       "0",
		"Vary":                         "Origin",
	} {
		if got := response.Header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
}
