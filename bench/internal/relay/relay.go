// Package relay is the stand-in for the watchRTC relay that every contestant
// forwards to. It runs in a process of its own, so that its cost is charged to no
// proxy, and does as little as it can: it greets, checks and replies.
package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strconv"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// Greeting is the relay's first frame on each tunnel.
const Greeting = `{"connectionId":"b0a7e6d2-3c41-4f7e-9a55-1d2c3b4a5f60","projectId":"bench",` +
	`"interval":8000,"sendInterval":1,"collectConsoleLogEnabled":false}`

// Serve accepts connections on addr until ctx is done.
func Serve(ctx context.Context, addr, certFile, keyFile string) error {
	// The relay's memory is charged to nobody, but its garbage collector would compete
	// with the proxy for the cores.
	debug.SetGCPercent(800)
	config, err := TLSConfig(certFile, keyFile)
	if err != nil {
		return err
	}
	ln, err := tls.Listen("tcp", addr, config)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil // The process ends, and its connections with it.
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			serveConn(conn)
		}()
	}
}

// TLSConfig is a relay's.
func TLSConfig(certFile, keyFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	return &tls.Config{
		Certificates:     []tls.Certificate{cert},
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519},
		NextProtos:       []string{"http/1.1"},
	}, err
}

// serveConn serves requests until the connection ends or turns into a tunnel. Proxies
// end connections in ways of their own, so how one ends is not reported; the load
// generator notices what is lost.
func serveConn(conn net.Conn) {
	r := bufio.NewReaderSize(conn, 8<<10)
	for {
		head, err := wire.ReadHead(r)
		if err != nil {
			return
		}
		if key := wire.Field(head, "Sec-WebSocket-Key"); key != nil {
			ServeTunnel(conn, r, wstest.Accept(string(key)))
			return
		}
		if err := serveTrace(conn, r, head); err != nil {
			return
		}
	}
}

// Upgraded is the response to a request for a WebSocket.
func Upgraded(accept string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: 2.0\r\n\r\n", accept)
}

// ServeTunnel accepts a WebSocket and serves it until it ends.
func ServeTunnel(conn net.Conn, r *bufio.Reader, accept string) {
	if _, err := conn.Write(Upgraded(accept)); err != nil {
		return
	}
	if _, err := conn.Write(wstest.Encode(false, wstest.Message(Greeting))); err != nil {
		return
	}
	frames := wstest.NewReader(r, true)
	frames.Reuse = true
	var reply, frame []byte
	for {
		message, err := frames.Next()
		if err != nil || message.Opcode != wstest.Text {
			return
		}
		if bytes.HasPrefix(message.Payload, []byte("bulk ")) {
			serveBulk(conn, r, string(message.Payload))
			return
		}
		reply = wire.AppendReply(reply[:0], message.Payload)
		frame = wstest.Frame{Fin: true, Opcode: wstest.Text, Payload: reply}.AppendTo(frame[:0], false)
		if _, err := conn.Write(frame); err != nil {
			return
		}
	}
}

var errRequest = errors.New("a request nobody here sends")

func serveTrace(conn net.Conn, r *bufio.Reader, head []byte) error {
	size, err := strconv.Atoi(string(wire.Field(head, "Content-Length")))
	if err != nil || size > wire.MessageSize || !bytes.HasPrefix(head, []byte("POST /trace ")) {
		io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return errRequest
	}
	body, err := r.Peek(size)
	if err != nil {
		return err
	}
	response := make([]byte, 0, 256)
	response = fmt.Appendf(response, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", wire.ReplySize)
	response = wire.AppendReply(response, body)
	if _, err := r.Discard(size); err != nil {
		return err
	}
	_, err = conn.Write(response)
	return err
}
