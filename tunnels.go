package watchrtcproxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// tunnels holds every tunnel of the process, whatever configuration opened it.
var tunnels = tunnel.NewRegistry(logClosed)

// onShutdown runs when the server of this configuration begins to shut down. If
// the process stops, that server waits for its HTTP/2 and HTTP/3 streams, so the
// drain must not wait for it.
func (h *Handler) onShutdown() {
	if caddy.Exiting() {
		ending.within(h.lease.Drain())
		h.cancelHandshakes(errDraining)
	}
}

// logClosed logs the end of a tunnel with the logger of the configuration that
// runs now; the one that opened the tunnel may be long gone, with its log files.
func logClosed(s tunnel.Summary) {
	fields := []zap.Field{
		zap.Uint64("tunnel", s.ID),
		zap.String("session_id", s.SessionID),
		zap.String("client_ip", s.ClientIP),
		zap.String("upstream", s.Upstream),
		zap.Duration("duration", s.Duration),
		zap.Uint64("bytes_to_relay", s.BytesToRelay),
		zap.Uint64("bytes_to_client", s.BytesToClient),
		zap.Uint64("frames_to_relay", s.FramesToRelay),
		zap.Uint64("frames_to_client", s.FramesToClient),
		zap.String("closed_by", s.ClosedBy),
		zap.Int("close_code", s.CloseCode),
		zap.String("reason", s.Reason),
	}
	if s.CutToRelay > 0 {
		fields = append(fields, zap.Uint64("bytes_cut_to_relay", s.CutToRelay))
	}
	if s.CutToClient > 0 {
		fields = append(fields, zap.Uint64("bytes_cut_to_client", s.CutToClient))
	}
	logger().Info("tunnel closed", fields...)
}

// logger returns the running configuration's logger for this module.
func logger() *zap.Logger {
	ctx := caddy.ActiveContext()
	if ctx.Context == nil {
		return caddy.Log().Named("http.handlers.watchrtc_proxy") // none is running
	}
	return ctx.Logger(Handler{})
}

// info describes r's tunnel without holding on to r.
func (h *Handler) info(r *http.Request) tunnel.Info {
	return tunnel.Info{
		Upstream:  h.upstream.name,
		ClientIP:  h.clientIP(r),
		SessionID: sessionID(r.URL.RawQuery),
	}
}

// clientIP returns the client's address for the logs, masked if addresses are.
func (h *Handler) clientIP(r *http.Request) string {
	ip := h.trust.client(r)
	if h.MaskClientIP && ip != "" {
		return maskIP(ip)
	}
	return ip
}

// maxSessionID bounds what a client can put into a log line.
const maxSessionID = 128

// sessionID returns the SDK's sessionId parameter, cut to what a log line bears.
func sessionID(query string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if escaped, ok := strings.CutPrefix(pair, "sessionId="); ok {
			id, err := url.QueryUnescape(escaped)
			if err != nil {
				id = escaped
			}
			return strings.Clone(id[:min(len(id), maxSessionID)])
		}
	}
	return ""
}
