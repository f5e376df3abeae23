package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// TestFallbackBehindCopiedRequest: some handlers pass a copy of the request on, and error
// routes get the original. A fallback there has the whole body or an error, as behind any
// other handler.
func TestFallbackBehindCopiedRequest(t *testing.T) {
	fallback := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			fmt.Fprintf(w, "whole: %s", body)
		}
	})
	allow := serve(t, func(http.ResponseWriter, *http.Request) {})
	const small, begin, end = "small", "5\r\nfirst\r\n", "6\r\nsecond\r\n5\r\nthird\r\n0\r\n\r\n"
	for name, front := range map[string]string{
		"none":         "",
		"tracing":      "tracing",
		"forward_auth": "forward_auth " + allow.URL + " {\nuri /\n" + transport("") + "\n}",
	} {
		for _, test := range []struct {
			what, relay, option, field string
			body                       []string
			want                       string // empty where the fallback must not take anything for the whole body
		}{
			{"dead relay", "wss://" + nobody(t), "", "Content-Length: 5", []string{small}, "whole: small"},
			{"too large", newRelay(t, nil).URL, "max_body_size 10", "Transfer-Encoding: chunked", []string{begin, end}, ""},
		} {
			s := site{body: "route {\n" + front + "\n" + directive("/websocket", test.relay, test.option) + "\n}\n" +
				"handle_errors {\nreverse_proxy " + fallback.URL + " {\n" + transport("") + "\n}\n}"}
			p := start(t, s)
			c := p.dial(t)
			c.request("POST", "/websocket/trace", test.field)
			for _, piece := range test.body {
				c.write(piece)
			}
			response := c.response("POST")
			text, _ := io.ReadAll(response.Body)
			if string(text) != test.want {
				t.Errorf("%s, %s: status %d, the fallback says %q, want %q", name, test.what, response.StatusCode, text, test.want)
			}
			c.close()
			p.stop(t)
		}
	}
}

// TestUnsolicitedResponseIsNotLogged has a relay that repeats a request, and with it the
// client's key, on a connection on which nothing is asked.
func TestUnsolicitedResponseIsNotLogged(t *testing.T) {
	for way, options := range transportWays() {
		said := make(chan bool)
		addr := rawRelay(t, func(c *wstest.Conn) {
			request, err := c.ReadRequest()
			if err != nil {
				return
			}
			c.WriteResponse("200 OK", "")
			<-said
			c.WriteText("HTTP/1.1 200 " + request.URL.RawQuery + "\r\n\r\n")
			c.ReadToEnd() // the proxy closes what it cannot make sense of
			said <- true
		}).Addr
		p := start(t, mount("wss://"+addr, options))
		var std stdLog
		std.capture(t)
		c := p.dial(t)
		c.request("POST", "/websocket/trace?apiKey="+secret, "Transfer-Encoding: chunked")
		c.write("0\r\n\r\n")
		c.wantStatus(c.response("POST"), http.StatusOK)
		said <- true
		await(t, said, "end of the connection")
		if text := std.String(); text != "" {
			t.Errorf("%s: logged %q", way, text)
		}
		c.close()
		p.stop(t)
	}
}

// stdLog keeps what goes to the log of the standard library, which Caddy passes on to its own.
type stdLog struct {
	mu   sync.Mutex // protects what follows
	text bytes.Buffer
}

func (l *stdLog) capture(t *testing.T) {
	before := log.Writer()
	log.SetOutput(l)
	t.Cleanup(func() { log.SetOutput(before) })
}

func (l *stdLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *stdLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
