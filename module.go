package watchrtcproxy

import (
	_ "github.com/coder/websocket"
	_ "go.uber.org/goleak"
	_ "go.uber.org/zap"
)
