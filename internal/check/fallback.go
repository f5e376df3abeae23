package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// emptyTrace is a trace of the SDK's that carries nothing.
const emptyTrace = `{"sessionId":"` + session + `","projectId":"","rtcRoomId":"` + session + `","rtcPeerId":"` + session + `","data":[]}`

// trace sends what the SDK sends by HTTPS.
func (r *run) trace(ctx context.Context) result {
	body := []byte(emptyTrace)
	request := &http.Request{
		Method: http.MethodPost, URL: r.endpoint("/trace"), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
	x, bad := r.request(ctx, "the POST", request)
	if bad != nil {
		return *bad
	}
	defer x.close()
	switch {
	case r.Origin != "" && !x.readable(r.Origin):
		return r.hidden(x)
	case x.StatusCode >= 200 && x.StatusCode < 300:
		return passed(fmt.Sprintf("status %d", x.StatusCode))
	case x.relayed() && (x.StatusCode == http.StatusBadRequest || x.StatusCode == http.StatusUnprocessableEntity):
		return passed(fmt.Sprintf("status %d from the relay, for a trace without data", x.StatusCode))
	}
	return r.unserved(ctx, x)
}

// preflight asks as a browser does before it sends a trace for a page of another
// origin.
func (r *run) preflight(ctx context.Context) result {
	if r.Origin == "" {
		return notTested("needs an origin", "give the origin of your pages by --origin, such as https://app.example.com")
	}
	x, bad := r.request(ctx, "the preflight", &http.Request{
		Method: http.MethodOptions, URL: r.endpoint("/trace"), Header: http.Header{
			"Access-Control-Request-Method":  {http.MethodPost},
			"Access-Control-Request-Headers": {"content-type"},
		},
	})
	if bad != nil {
		return *bad
	}
	defer x.close()
	switch {
	case !x.readable(r.Origin):
		return r.hidden(x)
	case x.StatusCode < 200 || x.StatusCode >= 300:
		return r.unserved(ctx, x)
	case !allowsContentType(x.Header["Access-Control-Allow-Headers"]):
		return failed("CORS is incomplete", "Access-Control-Allow-Headers lacks Content-Type", corsHint)
	}
	return passed(fmt.Sprintf("status %d, pages of %s may send", x.StatusCode, r.Origin))
}

// config gets what the SDK gets for its network test. It knows no token there.
func (r *run) config(ctx context.Context) result {
	if r.APIKey == "" {
		return notTested("needs a key", "give the SDK's key by --api-key")
	}
	u := r.endpoint("/get-qualityrtc-config")
	u.RawQuery = "apiKey=" + url.QueryEscape(r.APIKey)
	x, bad := r.request(ctx, "the GET", &http.Request{Method: http.MethodGet, URL: u, Header: make(http.Header)})
	if bad != nil {
		return *bad
	}
	defer x.close()
	switch {
	case r.Origin != "" && !x.readable(r.Origin):
		return r.hidden(x)
	case x.StatusCode < 200 || x.StatusCode >= 300:
		return r.unserved(ctx, x)
	case json.Unmarshal(x.body(ctx), new(map[string]any)) != nil:
		return failed("the configuration is not a relay's", fmt.Sprintf("status %d, but no JSON object", x.StatusCode), "see that the upstream is a watchRTC relay")
	}
	return passed(fmt.Sprintf("status %d", x.StatusCode))
}

// request sends a request on a connection of its own, which the caller closes.
func (r *run) request(ctx context.Context, what string, request *http.Request) (*exchange, *result) {
	r.setOrigin(request.Header)
	request.Close = true
	conn, err := r.redial(ctx)
	if err != nil {
		bad := failed("the server cannot be connected to again", "it could be a moment ago", "see that the certificate and the server behind each connection are the same")
		return nil, &bad
	}
	x, err := r.exchange(ctx, conn, request)
	if err != nil {
		conn.Close()
		bad := r.unanswered(what, err)
		return nil, &bad
	}
	return x, nil
}

const corsHint = "let the relay's Access-Control-Allow-* pass: see `header` and `header_down`, and what stands in front of the proxy"

// hidden is the mistake in a response that pages cannot read.
func (r *run) hidden(x *exchange) result {
	seen := "no Access-Control-Allow-Origin"
	switch n := len(x.Header["Access-Control-Allow-Origin"]); {
	case n > 1:
		seen = "Access-Control-Allow-Origin comes twice"
	case n == 1:
		seen = "Access-Control-Allow-Origin is for another origin"
	}
	if bad, ok := r.refused(x); ok {
		return bad // what is not relayed has no CORS of the relay's
	}
	if !x.relayed() && x.StatusCode >= 400 {
		return unreached(x)
	}
	return failed("CORS is missing", fmt.Sprintf("status %d, %s, so pages cannot read it", x.StatusCode, seen), corsHint)
}

// unserved names the mistake behind a status.
func (r *run) unserved(ctx context.Context, x *exchange) result {
	if bad, ok := r.refused(x); ok {
		return bad
	}
	if !x.relayed() {
		return unreached(x)
	}
	seen := r.by(x)
	if text := r.errorText(x.body(ctx)); text != "" {
		seen += fmt.Sprintf(", %q", text)
	}
	return failed("the relay refuses the request", seen, "the proxy works; see that the upstream, its base path and the key are right")
}

func unreached(x *exchange) result {
	return failed("the request does not reach the proxy", fmt.Sprintf("status %d", x.StatusCode),
		"see that the mount and all below it lead to watchrtc_proxy")
}

// errorText is what a relay's JSON says is wrong, as it may be printed.
func (r *run) errorText(body []byte) string {
	var content struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &content) != nil {
		return ""
	}
	return r.quote(content.Error)
}

// allowsContentType reports whether Access-Control-Allow-Headers has Content-Type. The
// star stands for it in requests without credentials, as the SDK's are.
func allowsContentType(lines []string) bool {
	for _, line := range lines {
		for field := range strings.SplitSeq(line, ",") {
			if field = strings.TrimSpace(field); field == "*" || strings.EqualFold(field, "Content-Type") {
				return true
			}
		}
	}
	return false
}
