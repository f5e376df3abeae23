package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// echoServer sends messages back. The message "close:CODE:REASON" has it close that
// way. It logs each end as "closed CODE REASON".
type echoServer struct {
	url string
	log *program.Log
}

// startWS runs one with the npm package ws.
func startWS(t *testing.T, s *setup) echoServer {
	t.Helper()
	node := program.Start(t, "ws", exec.Command("node", "peers/ws-echo.mjs", s.leaf.CertFile, s.leaf.KeyFile))
	port := strings.TrimPrefix(node.Await(t, patience, "listening "), "listening ")
	return echoServer{url: "wss://127.0.0.1:" + port, log: node.Log}
}

// startGorilla runs one with gorilla/websocket.
func startGorilla(t *testing.T, s *setup) echoServer {
	t.Helper()
	logged := program.NewLog(t, "gorilla")
	upgrader := websocket.Upgrader{EnableCompression: true, CheckOrigin: func(*http.Request) bool { return true }}
	url := startUpstream(t, s, logged, func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			logged.Printf("upgrade: %v", err)
			return
		}
		defer ws.Close()
		err = echo(ws)
		var closed *websocket.CloseError
		if errors.As(err, &closed) {
			fmt.Fprintf(logged, "closed %d %s\n", closed.Code, closed.Text)
			return
		}
		logged.Printf("error %v", err)
	})
	return echoServer{url: url, log: logged}
}

func echo(ws *websocket.Conn) error {
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return err
		}
		var code int
		var reason string
		if n, _ := fmt.Sscanf(string(data), "close:%d:", &code); n == 1 {
			_, reason, _ = strings.Cut(strings.TrimPrefix(string(data), "close:"), ":")
			err = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason))
		} else {
			err = ws.WriteMessage(kind, data)
		}
		if err != nil {
			return err
		}
	}
}

// startUpstream serves handler over TLS and returns it as an upstream.
func startUpstream(t *testing.T, s *setup, logged *program.Log, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.leaf.TLS}}
	server.Config.ErrorLog = log.New(logged, "", log.Ltime)
	server.StartTLS()
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "https", "wss", 1)
}
