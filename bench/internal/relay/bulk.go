package relay

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/wire"
)

// serveBulk does what a client's first message asks for.
func serveBulk(conn net.Conn, r *bufio.Reader, command string) {
	if command == wire.BulkUp {
		receiveBulk(conn, r)
	} else if ms, err := strconv.Atoi(strings.TrimPrefix(command, wire.BulkDown)); err == nil {
		sendBulk(conn, time.Duration(ms)*time.Millisecond)
	}
}

// receiveBulk replies to the last frame with how many there were.
func receiveBulk(conn net.Conn, r *bufio.Reader) {
	bulk := wire.BulkFrom(true)
	frame := make([]byte, wire.BulkFrameSize)
	for count := 1; ; count++ {
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		last, err := bulk.Check(frame)
		if err != nil {
			return
		}
		if last {
			_, _ = conn.Write(wstest.Encode(false, wstest.Message(strconv.Itoa(count))))
			return
		}
	}
}

func sendBulk(conn net.Conn, d time.Duration) {
	bulk := wire.BulkFrom(false)
	for deadline := time.Now().Add(d); time.Now().Before(deadline); {
		if _, err := conn.Write(bulk.Frame()); err != nil {
			return
		}
	}
	if _, err := conn.Write(bulk.Last()); err != nil {
		return
	}
	_, _ = conn.Read(make([]byte, 1)) // The client ends it.
}
