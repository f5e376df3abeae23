package integration_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// wantRefusal checks a response that the proxy has made itself.
func wantRefusal(t *testing.T, kind string, response *http.Response, status int) {
	t.Helper()
	if response.StatusCode != status {
		t.Errorf("%s: status %d, want %d", kind, response.StatusCode, status)
	}
	wantLine(t, kind, response.Header, "Access-Control-Allow-Origin", "https://page.example")
	wantLine(t, kind, response.Header, "Vary", "Origin")
	wantLine(t, kind, response.Header, "Server", "Caddy")
	wantLine(t, kind, response.Header, "Via", "")
}

// TestUnreachable goes through what keeps a relay from being reached, or from
// saying anything.
func TestUnreachable(t *testing.T) {
	names := newNameServer(t)
	silent := func(config *tls.Config) string {
		return rawRelayWith(t, config, func(c *wstest.Conn) { c.ReadToEnd() }).Addr
	}
	gone := rawRelay(t, func(c *wstest.Conn) { c.ReadHead() }).Addr
	garbage := rawRelay(t, func(c *wstest.Conn) { c.ReadHead(); c.WriteText("SSH-2.0-relay\r\n\r\n"); c.ReadToEnd() }).Addr
	trusted := newRelay(t, nil)
	for _, test := range []struct {
		name, relay, options string
		status               int
	}{
		{"nobody listens", "wss://" + wstest.DeadAddr(t), "", 502},
		{"nobody listens, without TLS", "ws://" + wstest.DeadAddr(t), "", 502},
		{"unknown name", unknownName(t), names.transport(), 502},
		{"certificate of an unknown issuer", trusted.URL, "transport http", 502},
		{"certificate of another name", "wss://relay.example", transport("tls_server_name other.example\nresolvers " + names.addr), 502},
		{"certificate of another name, by address", strings.Replace(trusted.URL, "127.0.0.1", "localhost", 1), transport("tls_server_name other.example"), 502},
		{"no TLS there", "wss://" + rawRelayWith(t, nil, func(c *wstest.Conn) { c.WriteText("HTTP/1.1 400 Bad Request\r\n\r\n"); c.ReadToEnd() }).Addr, "", 502},
		{"closes without a response", "wss://" + gone, "", 502},
		{"no HTTP", "wss://" + garbage, "", 502},
		{"silent before TLS", "wss://" + silent(nil), "handshake_timeout 100ms", 504},
		{"silent after TLS", "wss://" + silent(leaf.ServerConfig()), "handshake_timeout 100ms", 504},
		{"silent before TLS, for longer than the transport's tls_timeout", "wss://" + silent(nil),
			"transport http {\ntls_timeout 100ms\n}", 504},
		{"silent without TLS", "ws://" + silent(nil), "handshake_timeout 100ms", 504},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, mount(test.relay, test.options))
			for _, kind := range kinds {
				c := p.dial(t)
				wantRefusal(t, kind, c.try(kind, "/websocket?apiKey=k", "Origin: https://page.example"), test.status)
				c.close()
			}
		})
	}
}

// TestBadSwitchingProtocols has 101 responses that are none to the handshake.
func TestBadSwitchingProtocols(t *testing.T) {
	const good = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
	for name, header := range map[string]string{
		"wrong accept":       good + "Sec-WebSocket-Accept: " + wstest.Accept("other") + "\r\n",
		"no accept":          good,
		"other protocol":     "Connection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: " + wstest.SampleAccept + "\r\n",
		"no protocol":        "Connection: Upgrade\r\nSec-WebSocket-Accept: " + wstest.SampleAccept + "\r\n",
		"no upgrade":         "Connection: keep-alive\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + wstest.SampleAccept + "\r\n",
		"connection missing": "Upgrade: websocket\r\nSec-WebSocket-Accept: " + wstest.SampleAccept + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			addr := rawRelay(t, func(c *wstest.Conn) {
				if _, err := c.ReadRequest(); err != nil {
					t.Error(err)
				}
				c.WriteText("HTTP/1.1 101 Switching Protocols\r\n" + header + "\r\n")
				c.ReadToEnd() // ends when the proxy has given up on it
			}).Addr
			p := start(t, mount("wss://"+addr, ""))
			for _, kind := range kinds {
				c := p.dial(t)
				wantRefusal(t, kind, c.try(kind, "/websocket", "Origin: https://page.example"), http.StatusBadGateway)
				c.close()
			}
		})
	}
}

// TestRelayRefusesHandshake shows that a relay's response in place of a 101 passes
// as it is, whatever its status.
func TestRelayRefusesHandshake(t *testing.T) {
	for _, status := range []int{200, 301, 401, 403, 404, 426, 429, 500, 502, 503} {
		relay := newRelay(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error":"%d"}`, status)
		})
		p := start(t, mount(relay.URL, ""))
		c := p.dial(t)
		response := c.handshake("/websocket?apiKey=k", "Origin: https://page.example")
		c.wantStatus(response, status)
		body, err := io.ReadAll(response.Body)
		if want := fmt.Sprintf(`{"error":"%d"}`, status); err != nil || string(body) != want {
			t.Errorf("%d: body %q (%v), want %q", status, body, err, want)
		}
		wantLine(t, "handshake", response.Header, "Content-Type", "application/json")
		wantLine(t, "handshake", response.Header, "Retry-After", "7")
		wantLine(t, "handshake", response.Header, "Access-Control-Allow-Origin", "") // CORS is the relay's
		// The connection goes on as HTTP.
		response = c.handshake("/websocket?apiKey=k")
		c.wantStatus(response, status)
		c.close()
		p.stop(t)
	}
}

// TestBadHandshakes shows that only a valid handshake reaches the relay.
func TestBadHandshakes(t *testing.T) {
	relay := newRelay(t, nil)
	p := start(t, mount(relay.URL, ""))
	const (
		connection = "Connection: Upgrade"
		upgrade    = "Upgrade: websocket"
		version    = "Sec-WebSocket-Version: 13"
		key        = "Sec-WebSocket-Key: " + wstest.SampleKey
	)
	for _, test := range []struct {
		name, method string
		fields       []string
		status       int
	}{
		{"POST", "POST", []string{connection, upgrade, version, key, "Content-Length: 0"}, 400},
		{"another protocol", "GET", []string{connection, "Upgrade: h2c", version, key}, 400},
		{"no version", "GET", []string{connection, upgrade, key}, 400},
		{"no key", "GET", []string{connection, upgrade, version}, 400},
		{"short key", "GET", []string{connection, upgrade, version, "Sec-WebSocket-Key: AAAA"}, 400},
		{"key not in base64", "GET", []string{connection, upgrade, version, "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="}, 400},
		{"two keys", "GET", []string{connection, upgrade, version, key, key}, 400},
		{"a body", "GET", []string{connection, upgrade, version, key, "Content-Length: 5"}, 400},
		{"a chunked body", "GET", []string{connection, upgrade, version, key, "Transfer-Encoding: chunked"}, 400},
		{"CONNECT", "CONNECT", []string{version, key}, 400},
		{"wrong version", "GET", []string{connection, upgrade, "Sec-WebSocket-Version: 8", key}, 426},
		{"two versions", "GET", []string{connection, upgrade, version, "Sec-WebSocket-Version: 8", key}, 426},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := p.dial(t)
			c.request(test.method, "/websocket", append(test.fields, "Origin: https://page.example")...)
			c.write("0\r\n\r\n") // five bytes, or no chunk
			response := c.response(test.method)
			wantRefusal(t, test.name, response, test.status)
			if test.status == http.StatusUpgradeRequired {
				wantLine(t, test.name, response.Header, "Sec-Websocket-Version", "13")
				wantLine(t, test.name, response.Header, "Upgrade", "websocket")
			}
			c.close()
			if relay.saw() {
				t.Errorf("the relay saw %v", relay.next(t))
			}
		})
	}
	t.Run("HTTP/1.0", func(t *testing.T) {
		c := p.dial(t)
		c.write("GET /websocket HTTP/1.0\r\nHost: proxy.example\r\nOrigin: https://page.example\r\n" + strings.Join(wstest.HandshakeFields(wstest.SampleKey), "\r\n") + "\r\n\r\n")
		wantRefusal(t, "HTTP/1.0", c.response("GET"), http.StatusBadRequest)
	})
	// Nothing of a length that was announced would be left for the WebSocket.
	overStreams(t, func(t *testing.T, protocol string) {
		p := start(t, mount(relay.URL).over(protocol))
		response := p.open(t, protocol, "/websocket", "", "Content-Length: 5", "Origin: https://page.example").Response
		wantRefusal(t, protocol, response, http.StatusBadRequest)
		if relay.saw() {
			t.Errorf("%s: the relay saw %v", protocol, relay.next(t))
		}
	})
	p = start(t, mount(relay.URL))
	// Not asking for an upgrade at all is a plain request.
	c := p.dial(t)
	c.request("GET", "/websocket", upgrade, version, key)
	c.wantStatus(c.response("GET"), http.StatusOK)
	wantLine(t, "plain", relay.next(t).Header, "Upgrade", "")
}
