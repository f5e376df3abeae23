package integration_test

import (
	"bytes"
	"net/http"
	"testing"
)

// TestRefusalDuringUpload: a client that sends its whole body before it looks for the
// response finds the one that was made here, as it does with respond and reverse_proxy.
func TestRefusalDuringUpload(t *testing.T) {
	relay := newRelay(t, nil)
	upload := make([]byte, 4<<20)
	for name, test := range map[string]struct {
		site site
		want int
	}{
		"respond":       {site{body: "respond 403"}, http.StatusForbidden},
		"reverse_proxy": {site{body: "reverse_proxy " + nobody(t)}, http.StatusBadGateway},
		"origin":        {mount(relay.URL, "origins https://app.example"), http.StatusForbidden},
		"max_body_size": {mount(relay.URL, "max_body_size 1MiB"), http.StatusRequestEntityTooLarge},
		"unreachable":   {mount("wss://" + nobody(t)), http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, test.site)
			const attempts = 50
			lost := 0
			var why error
			for range attempts {
				r := request(t, "POST", p.url("/websocket/trace"), bytes.NewReader(upload), "Origin: https://page.example")
				response, err := p.client(t, http1).Do(r)
				if err != nil {
					lost, why = lost+1, err
					continue
				}
				response.Body.Close()
				wantStatus(t, response, test.want)
			}
			if lost > 0 {
				t.Errorf("%d of %d clients did not get their %d: %v", lost, attempts, test.want, why)
			}
		})
	}
}
