package watchrtcproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// asksForUpgrade reports whether r wants to leave HTTP: an Upgrade (RFC 9110,
// section 7.8) or any kind of CONNECT.
func asksForUpgrade(r *http.Request) bool {
	return r.Method == http.MethodConnect ||
		len(r.Header["Upgrade"]) > 0 && httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}

// isExtendedConnect reports whether r opens a WebSocket on a stream of HTTP/2 or
// HTTP/3 (RFC 8441, RFC 9220).
func isExtendedConnect(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" ||
		r.ProtoMajor == 3 && r.Proto == "websocket"
}

// checkHandshake returns why r is no WebSocket handshake (RFC 6455, section
// 4.2.1), or nil.
func checkHandshake(r *http.Request) *refusal {
	bad := func(why string) *refusal {
		return &refusal{status: http.StatusBadRequest, err: errors.New("no WebSocket handshake: " + why)}
	}
	versions := r.Header["Sec-Websocket-Version"]
	extended := isExtendedConnect(r)
	switch {
	case r.Method == http.MethodConnect && !extended:
		return bad("CONNECT without the protocol websocket")
	case !extended && r.Method != http.MethodGet:
		return bad("the method is not GET")
	case !extended && !httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket"):
		return bad("the protocol is not websocket")
	case !extended && !r.ProtoAtLeast(1, 1):
		return bad("the version of HTTP is below 1.1")
	case !extended && r.ContentLength != 0:
		return bad("it has a body")
	case len(versions) == 0:
		return bad("Sec-WebSocket-Version is missing")
	case len(versions) > 1 || versions[0] != "13":
		return wrongVersion(extended)
	case !extended && !validKey(r.Header["Sec-Websocket-Key"]):
		return bad("Sec-WebSocket-Key is not one key of 16 bytes in base64")
	}
	return nil
}

func wrongVersion(extended bool) *refusal {
	header := map[string]string{"Sec-WebSocket-Version": "13"}
	if !extended { // HTTP/2 and 3 have neither of these
		header["Upgrade"], header["Connection"] = "websocket", "Upgrade"
	}
	return &refusal{
		status: http.StatusUpgradeRequired,
		err:    errors.New("no WebSocket handshake: Sec-WebSocket-Version is not 13"),
		header: header,
	}
}

func validKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(keys[0])
	return err == nil && len(key) == 16
}

// serveWebSocket lets the relay answer the handshake. A 101 becomes a tunnel, any
// other answer goes to the client as it is.
func (h *Handler) serveWebSocket(w http.ResponseWriter, r *http.Request, path string) error {
	if h.lease.Draining() {
		return h.refuseDraining(w, r)
	}
	limit := newDeadline(r.Context(), h.handshakeTimeout())
	defer limit.end()
	defer limit.endWith(stopping.begun)()
	var relay net.Conn
	ctx := httptrace.WithClientTrace(limit.ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { relay = info.Conn },
	})
	out := h.handshakeRequest(ctx, r, path)
	answer, err := h.transports.handshakes.RoundTrip(out)
	limit.pause()
	if err == nil && answer.StatusCode == http.StatusSwitchingProtocols && !validAnswer(out, answer) {
		answer.Body.Close()
		err = errBadAnswer
	}
	if err != nil && context.Cause(limit.ctx) == errDraining {
		return h.refuseDraining(w, r)
	}
	if err != nil {
		return fail(w, r, limit.ctx, err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		defer answer.Body.Close()
		h.writeAnswerHeader(w, r, answer)
		return writeAnswer(w, answer)
	}
	h.writeAnswerHeader(w, r, answer)
	// The 101 has handed the connection over to us, with what came behind it.
	leg := tunnel.ConnLeg(behindAnswer{relay, answer.Body}, nil, true)
	if !h.transports.rearmed {
		leg = tunnel.ConnLeg(relay, tunnel.Pending(answer.Body, relay), false)
	}
	open := h.openConn
	if isExtendedConnect(r) {
		open = h.openStream
	}
	if err := open(w, r, leg); err != nil {
		relay.Close()
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	return nil
}

func (h *Handler) refuseDraining(w http.ResponseWriter, r *http.Request) error {
	return refuse(w, r, &refusal{
		status: http.StatusServiceUnavailable, err: errDraining,
		retryAfter: max(time.Duration(*h.DrainWindow), time.Second),
	})
}

// behindAnswer is a connection whose read deadlines are not ours to set. What came
// behind the 101 cannot be looked for without waiting, so it is left where it is.
type behindAnswer struct {
	net.Conn
	body io.Reader
}

func (c behindAnswer) Read(p []byte) (int, error) { return c.body.Read(p) }
func (c behindAnswer) NetConn() net.Conn          { return c.Conn }

func (c behindAnswer) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}

// handshakeRequest returns the HTTP/1.1 handshake for the relay.
func (h *Handler) handshakeRequest(ctx context.Context, r *http.Request, path string) *http.Request {
	setTransportVars(r, true)
	out := h.outbound(ctx, r, path)
	out.Method = http.MethodGet
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{"websocket"}
	if isExtendedConnect(r) {
		out.Header["Sec-Websocket-Key"] = []string{newKey()} // HTTP/2 and 3 have none
	}
	h.applyRequestOps(out)
	spellAsRFC6455(out.Header)
	return out
}

func newKey() string {
	var key [16]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(key[:])
}

// spellings are the fields whose names RFC 6455 writes with a capital S inside.
// Names are case-insensitive, but some servers have never heard of it.
var spellings = map[string]string{
	"Sec-Websocket-Accept":     "Sec-WebSocket-Accept",
	"Sec-Websocket-Extensions": "Sec-WebSocket-Extensions",
	"Sec-Websocket-Key":        "Sec-WebSocket-Key",
	"Sec-Websocket-Protocol":   "Sec-WebSocket-Protocol",
	"Sec-Websocket-Version":    "Sec-WebSocket-Version",
}

func spellAsRFC6455(header http.Header) {
	for canonical, spelled := range spellings {
		if values, ok := header[canonical]; ok {
			delete(header, canonical)
			header[spelled] = values
		}
	}
}

// validAnswer reports whether a 101 answers the handshake (RFC 6455, section 4.1).
func validAnswer(out *http.Request, answer *http.Response) bool {
	key := out.Header[spellings["Sec-Websocket-Key"]]
	return len(key) == 1 &&
		answer.Header.Get("Sec-Websocket-Accept") == acceptFor(key[0]) &&
		strings.EqualFold(answer.Header.Get("Upgrade"), "websocket") &&
		httpguts.HeaderValuesContainsToken(answer.Header["Connection"], "upgrade")
}

// acceptFor returns the Sec-WebSocket-Accept for key.
func acceptFor(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// openConn answers an HTTP/1.1 client with the relay's 101 and starts the tunnel.
// It returns while the tunnel lives.
func (h *Handler) openConn(w http.ResponseWriter, r *http.Request, relay tunnel.Leg) error {
	header := w.Header()
	header["Connection"] = []string{"Upgrade"}
	header["Upgrade"] = []string{"websocket"}
	spellAsRFC6455(header)
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := http.NewResponseController(tunnel.Innermost(w)).Hijack()
	if err != nil {
		return err
	}
	if err := rw.Flush(); err != nil {
		conn.Close()
		return err
	}
	client := tunnel.ConnLeg(conn, buffered(rw.Reader), false)
	h.lease.Open(h.info(r), client, relay, time.Duration(*h.IdleTimeout))
	return nil
}

// buffered returns a copy of what the client sent right behind its handshake.
func buffered(r *bufio.Reader) []byte {
	p, _ := r.Peek(r.Buffered())
	return bytes.Clone(p)
}
