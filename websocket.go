package watchrtcproxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/limits"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// shakeHands sends the handshake to the relay. Any response but an invalid 101 is
// the client's.
func (t *roundTrip) shakeHands() (*http.Response, error) {
	out := t.outgoing(t.limit.Context)
	out.Method = http.MethodGet
	handshake.Keep(out.Header, t.r)
	handshake.Prepare(out.Header)
	t.h.applyRequestOps(out)
	handshake.Spell(out.Header)
	response, conn, err := t.relay.Handshake(out)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		if err := handshake.CheckResponse(out.Header, response); err != nil {
			response.Body.Close()
			return nil, t.relay.Invalid("sent an invalid handshake: "+err.Error(), err)
		}
		t.conn = conn
	}
	return response, nil
}

// openTunnel passes the relay's 101 on and starts the tunnel.
func (t *roundTrip) openTunnel(response *http.Response) error {
	t.setResponseHeader(response)
	leg := t.relayLeg(response.Body)
	open := t.openConn
	if handshake.Extended(t.r) {
		open = t.openStream
	}
	if err := open(leg); err != nil {
		if errors.Is(err, http.ErrNotSupported) {
			return t.refuse(&refusal{status: http.StatusInternalServerError, err: err})
		}
		// The client has gone, or takes nothing. That is no error of the server's, whose line
		// in Caddy's log would hold the URL, and so the key.
		panic(http.ErrAbortHandler) // the response has begun
	}
	return nil
}

// relayLeg returns the leg to the relay. The 101 has handed the connection over to us, with
// what came after it.
func (t *roundTrip) relayLeg(body io.Reader) tunnel.Leg {
	if t.relay.SetsDeadlines {
		return tunnel.ConnLeg(afterResponse{t.conn, body}, nil, true)
	}
	return tunnel.ConnLeg(t.conn, tunnel.Pending(body, t.conn), false)
}

// clientPatience is how long a client may take for the response to its handshake. It is
// no part of handshake_timeout, of which a slow relay may leave next to nothing: with
// its default, both make the 15 s that the SDK waits.
const clientPatience = 5 * time.Second

// notTaken gives up a handshake whose response the client has not taken.
func (t *roundTrip) notTaken() {
	t.conn.Close()
	t.freeSlot()
	t.notOpened()
}

// afterResponse is a connection whose read deadlines are not ours to set. What came
// after the 101 cannot be looked for without waiting, so it is left where it is.
type afterResponse struct {
	net.Conn
	body io.Reader
}

func (c afterResponse) Read(p []byte) (int, error) { return c.body.Read(p) }
func (c afterResponse) NetConn() net.Conn          { return c.Conn }

// openConn passes the relay's 101 on to an HTTP/1.1 client and starts the tunnel. It
// returns while the tunnel lives.
func (t *roundTrip) openConn(relay tunnel.Leg) error {
	header := t.w.Header()
	header["Connection"] = []string{"Upgrade"}
	header["Upgrade"] = []string{"websocket"}
	handshake.Spell(header)
	controller := http.NewResponseController(tunnel.Innermost(t.w))
	controller.SetWriteDeadline(time.Now().Add(clientPatience)) // Hijack writes a head that is large
	t.w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := controller.Hijack()
	if err != nil {
		t.notTaken()
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(clientPatience))
	if err := rw.Flush(); err != nil {
		conn.Close()
		t.notTaken()
		return err
	}
	conn.SetWriteDeadline(time.Time{})
	t.open(tunnel.ConnLeg(conn, buffered(rw.Reader), false), relay)
	return nil
}

// open starts the tunnel, which has the slot from now on.
func (t *roundTrip) open(client, relay tunnel.Leg) *tunnel.Tunnel {
	took := t.opened()
	info := t.info()
	info.Slot = t.handOverSlot()
	tunnel := t.h.lease.Open(info, client, relay, time.Duration(*t.h.IdleTimeout))
	t.setPlaceholder(placeholderTunnel, tunnel.ID())
	logOpened(tunnel, took)
	return tunnel
}

// handOverSlot leaves the slot to a tunnel.
func (t *roundTrip) handOverSlot() *limits.Slot {
	slot := t.slot
	t.slot = nil
	return slot
}

// buffered returns a copy of what the client sent right after its handshake.
func buffered(r *bufio.Reader) []byte {
	p, _ := r.Peek(r.Buffered())
	return bytes.Clone(p)
}
