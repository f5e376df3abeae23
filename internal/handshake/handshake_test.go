package handshake

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// The key and its response of RFC 6455, section 1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

func request(change func(*http.Request)) *http.Request {
	r := &http.Request{Method: "GET", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {sampleKey},
	}}
	change(r)
	return r
}

func TestCheck(t *testing.T) {
	connect := func(major int, proto string, header http.Header) func(*http.Request) {
		return func(r *http.Request) {
			r.Method, r.ProtoMajor, r.Proto, r.ContentLength = "CONNECT", major, proto, -1
			header["Sec-Websocket-Version"] = []string{"13"}
			r.Header = header
		}
	}
	for name, test := range map[string]struct {
		change func(*http.Request)
		want   string // empty: valid
	}{
		"HTTP/1.1": {func(*http.Request) {}, ""},
		"HTTP/2":   {connect(2, "HTTP/2.0", http.Header{":protocol": {"websocket"}}), ""},
		"HTTP/3":   {connect(3, "websocket", http.Header{}), ""},
		"HTTP/2, a body": {func(r *http.Request) {
			connect(2, "HTTP/2.0", http.Header{":protocol": {"websocket"}})(r)
			r.ContentLength = 1
		}, "body"},
		"a plain CONNECT":  {connect(2, "HTTP/2.0", http.Header{}), "CONNECT"},
		"CONNECT-UDP":      {connect(3, "connect-udp", http.Header{}), "CONNECT"},
		"POST":             {func(r *http.Request) { r.Method = "POST" }, "GET"},
		"h2c":              {func(r *http.Request) { r.Header["Upgrade"] = []string{"h2c"} }, "protocol"},
		"HTTP/1.0":         {func(r *http.Request) { r.ProtoMinor = 0 }, "1.1"},
		"a body":           {func(r *http.Request) { r.ContentLength = 1 }, "body"},
		"no version":       {func(r *http.Request) { delete(r.Header, "Sec-Websocket-Version") }, "missing"},
		"no key":           {func(r *http.Request) { delete(r.Header, "Sec-Websocket-Key") }, "Key"},
		"two keys":         {func(r *http.Request) { r.Header["Sec-Websocket-Key"] = []string{sampleKey, sampleKey} }, "Key"},
		"a key too short":  {func(r *http.Request) { r.Header["Sec-Websocket-Key"] = []string{"AAAA"} }, "Key"},
		"another version":  {func(r *http.Request) { r.Header["Sec-Websocket-Version"] = []string{"8"} }, "not 13"},
		"several versions": {func(r *http.Request) { r.Header["Sec-Websocket-Version"] = []string{"13", "8"} }, "not 13"},
	} {
		r := request(test.change)
		err := Check(r)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if errors.Is(err, ErrVersion) != (test.want == "not 13") {
			t.Errorf("%s: %v is about the version", name, err)
		}
		if !Asked(r) {
			t.Errorf("%s: asks for no upgrade", name)
		}
	}
	if Asked(request(func(r *http.Request) { delete(r.Header, "Connection") })) {
		t.Error("Upgrade alone asks for nothing")
	}
}

// TestKeep has clients whose key and version are not there any more, or mean nothing.
func TestKeep(t *testing.T) {
	r := request(func(*http.Request) {})
	header := http.Header{}
	Keep(header, r)
	if !slices.Equal(header["Sec-Websocket-Key"], r.Header["Sec-Websocket-Key"]) || header.Get("Sec-Websocket-Version") != Version {
		t.Errorf("kept %v of %v", header, r.Header)
	}
	r.Method, r.ProtoMajor = http.MethodConnect, 2
	r.Header[":protocol"] = []string{"websocket"}
	header = http.Header{"Sec-Websocket-Key": {"no key", sampleKey}}
	Keep(header, r)
	if len(header["Sec-Websocket-Key"]) > 0 {
		t.Errorf("kept %v of an extended CONNECT", header)
	}
}

func TestBothSides(t *testing.T) {
	header := http.Header{"Sec-Websocket-Key": {sampleKey}}
	Prepare(header)
	Spell(header)
	good := func() *http.Response {
		return &http.Response{Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {sampleAccept},
		}}
	}
	if err := CheckResponse(header, good()); err != nil {
		t.Error(err)
	}
	for field, value := range map[string]string{
		"Connection": "close", "Upgrade": "h2c", "Sec-Websocket-Accept": Accept("other"),
	} {
		bad := good()
		bad.Header.Set(field, value)
		if err := CheckResponse(header, bad); err == nil {
			t.Errorf("%s: %s is accepted", field, value)
		}
	}
	for field, value := range map[string]string{"Upgrade": "h2c", "Sec-Websocket-Accept": Accept("other")} {
		twice := good()
		twice.Header.Add(field, value)
		if err := CheckResponse(header, twice); err == nil {
			t.Errorf("%s: %q is accepted", field, twice.Header[field])
		}
	}
	fresh, other := http.Header{}, http.Header{}
	Prepare(fresh)
	Prepare(other)
	if !ValidKey(fresh["Sec-Websocket-Key"]) || fresh.Get("Sec-Websocket-Key") == other.Get("Sec-Websocket-Key") {
		t.Errorf("made up the keys %v and %v", fresh, other)
	}
}
