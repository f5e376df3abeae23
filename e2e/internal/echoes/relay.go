package echoes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/coder/websocket"
)

// Listening begins the line that Serve prints once it listens.
const Listening = "echo relay listens on"

// Serve is a relay that sends each message back, until ctx is done. A WebSocket that
// asks for flood=1 gets the messages of its tunnel, the first to the last, as fast as it
// takes them, and is not read. Every other request gets a 200.
func Serve(ctx context.Context, addr, certFile, keyFile string) error {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	ln, err := tls.Listen("tcp", addr, &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:  http.HandlerFunc(serve),
		ErrorLog: log.New(os.Stderr, "", log.Ltime),
		// What outlives the listener ends with the process.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Println(Listening, addr)
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.Copy(io.Discard, r.Body) // it is not looked at
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(2 * maxMessage)
	query := r.URL.Query()
	if query.Has("flood") {
		flood(r.Context(), ws, query.Get("tunnel"))
		return
	}
	for {
		kind, message, err := ws.Read(r.Context())
		if err != nil || ws.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

func flood(ctx context.Context, ws *websocket.Conn, tunnel string) {
	id, err := strconv.ParseUint(tunnel, 10, 64)
	if err != nil {
		return
	}
	ctx = ws.CloseRead(ctx)
	for n := uint64(0); ws.Write(ctx, websocket.MessageBinary, message(id, n)) == nil; n++ {
	}
}
