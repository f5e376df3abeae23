package watchrtcproxy

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// tunnels holds every tunnel of the process, whatever configuration opened it.
var tunnels = tunnel.NewRegistry(tunnelClosed)

// active returns a function that reports whether the configuration of ctx is the one
// that runs. Caddy makes it so after all of it has been provisioned and started, and
// before it stops the one that ran until then; contexts of one configuration share
// their Done channel.
func active(ctx caddy.Context) func() bool {
	done := ctx.Done()
	return func() bool {
		running := caddy.ActiveContext()
		return running.Context != nil && running.Done() == done
	}
}

// logOpened is for debugging: a tunnel's end says all that this does.
func logOpened(t *tunnel.Tunnel, handshake time.Duration) {
	if entry := logger().Check(zap.DebugLevel, "tunnel opened"); entry != nil {
		entry.Write(
			zap.Uint64("tunnel", t.ID()),
			zap.String("session_id", t.SessionID),
			zap.String("client_ip", t.ClientIP),
			zap.String("upstream", t.Upstream),
			zap.String("protocol", protocol(t.HTTP)),
			zap.Duration("handshake_duration", handshake),
		)
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

// info describes the tunnel without holding on to the request.
func (t *roundTrip) info() tunnel.Info {
	return tunnel.Info{
		Upstream:  t.relay.Name,
		ClientIP:  t.h.rules.ClientIP(t.r),
		SessionID: sessionID(t.r.URL.RawQuery),
		HTTP:      uint8(t.r.ProtoMajor),
	}
}

// protocol returns the name of a major version of HTTP.
func protocol(major uint8) string {
	if major == 1 {
		return "HTTP/1.1" // HTTP/1.0 has no upgrades
	}
	return "HTTP/" + strconv.Itoa(int(major))
}

// maxSessionID bounds what a client can put into a log line.
const maxSessionID = 128

// sessionID returns the SDK's sessionId parameter, cut to what a log line bears. Where its
// proxyUrl ends in a query of its own, the SDK's begins with a second question mark, and
// the key may come right behind that.
func sessionID(query string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if escaped, ok := strings.CutPrefix(pair, "sessionId="); ok {
			id, err := url.QueryUnescape(escaped)
			if err != nil {
				id = escaped
			}
			id, _, _ = strings.Cut(id, "?")
			id = id[:min(len(id), maxSessionID)]
			return strings.ToValidUTF8(strings.Clone(id), "") // as the admin API shows it
		}
	}
	return ""
}
