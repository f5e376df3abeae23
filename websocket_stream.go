package watchrtcproxy

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// openStream answers a client on an HTTP/2 or HTTP/3 stream with 200 (RFC 8441,
// section 5) and stays until the tunnel is over: the stream ends with its handler.
func (h *Handler) openStream(w http.ResponseWriter, r *http.Request, relay tunnel.Leg) error {
	delete(w.Header(), "Sec-Websocket-Accept")
	defer overrideIdleTimeouts(r)()
	if carrier := carrierOf(r); carrier != nil {
		defer ending.carry(carrier)()
	}
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	client := tunnel.StreamLeg(w, r.Body)
	if h.lease.Open(h.info(r), client, relay, time.Duration(*h.IdleTimeout)).Wait() {
		panic(http.ErrAbortHandler) // RST_STREAM: an abnormal end stays one
	}
	return nil
}

// noTimeout is as good as none.
const noTimeout = 100 * 365 * 24 * time.Hour

// overrideIdleTimeouts keeps Caddy's idle timeouts for bodies, a minute by default,
// off a stream on which silence is normal. The tunnel has its own. It comes before
// the answer, whose write deadline would stay behind on HTTP/3.
func overrideIdleTimeouts(r *http.Request) (restore func()) {
	reader, writer := caddyhttp.IdleTimeoutsFromContext(r.Context())
	restore = func() {}
	if reader != nil {
		restore = reader.Override(noTimeout, 0)
	}
	if writer == nil {
		return restore
	}
	restoreReader, restoreWriter := restore, writer.Override(noTimeout, 0, 0)
	return func() {
		restoreWriter()
		restoreReader()
	}
}
