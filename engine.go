package watchrtcproxy

import (
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

var engineLogged sync.Once

// logEngine tells once per process which engine carries the tunnels.
func logEngine(log *zap.Logger) {
	engineLogged.Do(func() {
		name, why := tunnel.Engine()
		fields := []zap.Field{zap.String("engine", name)}
		if why != "" {
			fields = append(fields, zap.String("why", why))
		}
		log.Info("tunnels are carried", fields...)
	})
}
