package watchrtcproxy

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// closePolicy is the close code of an endpoint that is refused (RFC 6455, section
// 7.4.1).
const closePolicy = 1008

// maxAfterGreeting is how much a client may still send that has been told to go.
const maxAfterGreeting = 64 << 10

// greet refuses a WebSocket in the relay's own way: the handshake succeeds, and the
// first message says that there is an error. The SDK stops at that message; the Close
// frame is for all others.
//
// It holds nothing but the client's own connection, which is closed after lastWords at
// the latest: sooner than net/http would after a status.
func (t *roundTrip) greet(f *refusal) error {
	handshake.Respond(t.w.Header(), t.r)
	if handshake.Extended(t.r) {
		return t.greetStream(greeting(f.err))
	}
	return t.greetConn(greeting(f.err))
}

// greeting returns a text frame and a Close frame.
func greeting(why error) []byte {
	text, _ := json.Marshal(map[string]string{"error": "refused by the proxy: " + why.Error()}) // strings never fail
	return append(serverFrame(0x1, text), serverFrame(0x8, append(binary.BigEndian.AppendUint16(nil, closePolicy), why.Error()...))...)
}

// serverFrame returns a whole frame of a server's with at most 125 bytes (RFC 6455,
// section 5.2).
func serverFrame(opcode byte, payload []byte) []byte {
	return append([]byte{0x80 | opcode, byte(len(payload))}, payload...)
}

func (t *roundTrip) greetConn(frames []byte) error {
	controller := http.NewResponseController(tunnel.Innermost(t.w))
	controller.SetWriteDeadline(time.Now().Add(lastWords)) // Hijack writes a head that is large
	t.w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := controller.Hijack()
	if err != nil {
		return caddyhttp.Error(http.StatusInternalServerError, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(lastWords))
	rw.Write(frames)
	if rw.Flush() != nil {
		return nil // the client has gone
	}
	// A connection that is closed with bytes unread is reset, and the client may lose
	// what it has not read yet.
	if conn, ok := conn.(interface{ CloseWrite() error }); ok {
		conn.CloseWrite()
	}
	io.CopyN(io.Discard, rw, maxAfterGreeting)
	return nil
}

// greetStream ends the stream with its handler: in order once the client has said
// something, which is its Close frame, and else after lastWords.
func (t *roundTrip) greetStream(frames []byte) error {
	inner := tunnel.Innermost(t.w)
	t.w.WriteHeader(http.StatusOK)
	inner.WriteHeader(http.StatusOK) // a wrapper may keep it back, to see the body first
	controller := http.NewResponseController(inner)
	deadline := time.Now().Add(lastWords)
	controller.SetReadDeadline(deadline)
	controller.SetWriteDeadline(deadline)
	if _, err := inner.Write(frames); err != nil || controller.Flush() != nil {
		return nil // the client has gone
	}
	innermostBody(t.r).Read(make([]byte, 1))
	return nil
}
