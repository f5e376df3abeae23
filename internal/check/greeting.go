package check

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

const (
	// maxGreeting is how long a greeting may be, in bytes.
	maxGreeting = 64 << 10
	// maxFrames is how many frames may come before it is complete.
	maxFrames = 32
)

// noKey is the hint where neither key nor token is given.
const noKey = "give the SDK's key by --api-key, or a token by --token"

// greeting reads what the relay says first.
func (r *run) greeting(ctx context.Context) result {
	switch {
	case r.open == nil:
		return notTested("needs "+StepWebSocket, "")
	case r.APIKey == "" && r.Token == "":
		return notTested("needs a key", noKey)
	}
	defer boundBy(ctx, r.open.conn)()
	r.open.limit.N = 2 * maxGreeting
	message, err := readMessage(r.open.reader)
	if err != nil {
		return r.ungreeted(err)
	}
	r.open.conn.Write(normalClosure) // a courtesy: the connection ends now anyway
	return r.greeted(message)
}

// normalClosure is a Close frame 1000 of a client; its masking key is zero.
var normalClosure = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8}

func (r *run) greeted(message []byte) result {
	const notRelay = "see that the upstream is a watchRTC relay"
	var greeting struct {
		ConnectionID string  `json:"connectionId"`
		Interval     float64 `json:"interval"` // ms
		Error        any     `json:"error"`
	}
	if err := json.Unmarshal(message, &greeting); err != nil {
		return failed("the greeting is not a relay's", fmt.Sprintf("%d bytes that are not the JSON of one", len(message)), notRelay)
	}
	if greeting.Error != nil {
		text, isText := greeting.Error.(string)
		if !isText {
			text = "an error without a text"
		}
		return failed("the relay refuses this client", fmt.Sprintf("%q", r.quote(text)), "the proxy works; see that the key is right and that it is this relay's")
	}
	if greeting.ConnectionID == "" {
		return failed("the greeting is not a relay's", "it has no connectionId", notRelay)
	}
	seen := "the relay greets"
	if greeting.Interval >= 1 && greeting.Interval < 1e9 {
		seen += fmt.Sprintf(", statistics each %s", time.Duration(greeting.Interval)*time.Millisecond)
	}
	return passed(seen)
}

func (r *run) ungreeted(err error) result {
	var closed *closeError
	switch {
	case errors.As(err, &closed):
		seen := fmt.Sprintf("a Close frame, code %d", closed.code)
		if closed.reason != "" {
			seen += fmt.Sprintf(" %q", r.quote(closed.reason))
		}
		return failed("the WebSocket is closed at once", seen, "see the line `tunnel closed` in the proxy's log: it says who closed it")
	case errors.Is(err, errFrames):
		return failed("what came is not a valid greeting", err.Error(), "see that the upstream is a watchRTC relay, and what stands in front of the proxy")
	case isTimeout(err):
		return failed("the relay says nothing", "nothing within "+r.Timeout.String()+"; a relay speaks first",
			"see that the upstream is a watchRTC relay; something in front of the proxy may hold up what it sends")
	}
	return failed("the WebSocket breaks off", "no greeting, no Close frame", "see the line `tunnel closed` in the proxy's log: it says who ended it")
}

// errFrames is what frames that are not valid, or too many, or too large, wrap.
var errFrames = errors.New("invalid frames")

func badFrames(why string) error { return fmt.Errorf("%w: %s", errFrames, why) }

// closeError is a Close frame in place of a message; code 1005 stands for none.
type closeError struct {
	code   int
	reason string
}

func (e *closeError) Error() string { return fmt.Sprintf("closed with code %d", e.code) }

// readMessage reads a server's frames up to the end of the first text message (RFC
// 6455, section 5). It reads maxGreeting bytes of payload and maxFrames frames at most.
func readMessage(reader *bufio.Reader) ([]byte, error) {
	var message []byte
	begun := false
	for range maxFrames {
		frame, err := readFrame(reader, maxGreeting-len(message))
		if err != nil {
			return nil, err
		}
		switch {
		case frame.opcode == opClose:
			return nil, frame.closeError()
		case frame.opcode == opPing || frame.opcode == opPong:
			continue
		case frame.opcode == opText && !begun:
			begun = true
		case frame.opcode == opContinuation && begun:
		default:
			return nil, badFrames("not a text message")
		}
		message = append(message, frame.payload...)
		if frame.fin {
			if !utf8.Valid(message) {
				return nil, badFrames("a text that is not UTF-8")
			}
			return message, nil
		}
	}
	return nil, badFrames(fmt.Sprintf("more than %d", maxFrames))
}

const (
	opContinuation = 0x0
	opText         = 0x1
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	maxControl = 125
)

type frame struct {
	fin     bool
	opcode  byte
	payload []byte
}

// readFrame reads one frame of at most room bytes of payload.
func readFrame(reader *bufio.Reader, room int) (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(reader, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{fin: head[0]&0x80 != 0, opcode: head[0] & 0x0f}
	control := f.opcode&0x08 != 0
	switch {
	case head[0]&0x70 != 0:
		return f, badFrames("reserved bits are set")
	case head[1]&0x80 != 0:
		return f, badFrames("a server's frame is masked")
	case control && (!f.fin || head[1] > maxControl):
		return f, badFrames("a control frame is fragmented or too long")
	}
	size, err := readSize(reader, head[1])
	if err != nil {
		return f, err
	}
	if !control && size > uint64(room) {
		return f, badFrames(fmt.Sprintf("a message of more than %d bytes", maxGreeting))
	}
	f.payload = make([]byte, size)
	_, err = io.ReadFull(reader, f.payload)
	return f, err
}

func readSize(reader *bufio.Reader, short byte) (uint64, error) {
	var long [8]byte
	switch short {
	case 126:
		_, err := io.ReadFull(reader, long[6:])
		return binary.BigEndian.Uint64(long[:]), err
	case 127:
		_, err := io.ReadFull(reader, long[:])
		return binary.BigEndian.Uint64(long[:]), err
	}
	return uint64(short), nil
}

func (f frame) closeError() error {
	if len(f.payload) < 2 {
		return &closeError{code: 1005}
	}
	return &closeError{int(binary.BigEndian.Uint16(f.payload)), string(f.payload[2:])}
}
