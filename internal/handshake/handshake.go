// Package handshake is the WebSocket handshake, both sides of it: over HTTP/1.1
// (RFC 6455), HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220).
//
// It knows nothing of Caddy.
package handshake

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Version is the only version of the protocol (RFC 6455, section 4.1).
const Version = "13"

// guid is appended to a key (RFC 6455, section 1.3).
const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// ErrVersion is what Check returns for a version other than 13. The response to it
// has status 426 and names the version.
var ErrVersion = invalid("Sec-WebSocket-Version is not 13")

func invalid(why string) error { return errors.New("not a valid WebSocket handshake: " + why) }

// Asked reports whether r wants to leave HTTP: by Upgrade (RFC 9110, section 7.8)
// or by any kind of CONNECT.
func Asked(r *http.Request) bool {
	return r.Method == http.MethodConnect ||
		len(r.Header["Upgrade"]) > 0 && httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}

// Extended reports whether r opens a WebSocket on a stream of HTTP/2 or HTTP/3
// (RFC 8441, RFC 9220).
func Extended(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	return r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" ||
		r.ProtoMajor == 3 && r.Proto == "websocket"
}

// Check returns why r is not a valid handshake of a client (RFC 6455, section
// 4.2.1), or nil.
func Check(r *http.Request) error {
	versions := r.Header["Sec-Websocket-Version"]
	extended := Extended(r)
	switch {
	case r.Method == http.MethodConnect && !extended:
		return invalid("CONNECT without the protocol websocket")
	case !extended && r.Method != http.MethodGet:
		return invalid("the method is not GET")
	case !extended && !httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket"):
		return invalid("the protocol is not websocket")
	case !extended && !r.ProtoAtLeast(1, 1):
		return invalid("the version of HTTP is below 1.1")
	case !extended && r.ContentLength != 0, extended && r.ContentLength > 0: // of a stream it is unknown
		return invalid("it has a body")
	case len(versions) == 0:
		return invalid("Sec-WebSocket-Version is missing")
	case len(versions) > 1 || versions[0] != Version:
		return ErrVersion
	case !extended && !ValidKey(r.Header["Sec-Websocket-Key"]):
		return invalid("Sec-WebSocket-Key is not one key of 16 bytes in base64")
	}
	return nil
}

// ValidKey reports whether a Sec-WebSocket-Key is valid: one, of 16 bytes in base64.
func ValidKey(keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(keys[0])
	return err == nil && len(key) == 16
}

// Keep puts back into header what Check has read in r: Connection, which names fields
// that go no further, cannot take it away. The key of an extended CONNECT means nothing
// (RFC 8441, section 5) and does not cross.
func Keep(header http.Header, r *http.Request) {
	header["Sec-Websocket-Version"] = []string{Version}
	if Extended(r) {
		delete(header, "Sec-Websocket-Key")
	} else {
		header["Sec-Websocket-Key"] = slices.Clone(r.Header["Sec-Websocket-Key"])
	}
}

// Prepare makes header that of a client's handshake over HTTP/1.1. It keeps the
// client's key, and makes one up where there is none, as on HTTP/2 and HTTP/3.
func Prepare(header http.Header) {
	header["Connection"] = []string{"Upgrade"}
	header["Upgrade"] = []string{"websocket"}
	if len(header["Sec-Websocket-Key"]) == 0 {
		header["Sec-Websocket-Key"] = []string{newKey()}
	}
}

func newKey() string {
	var key [16]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(key[:])
}

// spellings are the fields whose names RFC 6455 writes with a capital S inside.
// Names are case-insensitive, but some servers have never heard of it.
var spellings = map[string]string{
	"Sec-Websocket-Accept":     "Sec-WebSocket-Accept",
	"Sec-Websocket-Extensions": "Sec-WebSocket-Extensions",
	"Sec-Websocket-Key":        "Sec-WebSocket-Key",
	"Sec-Websocket-Protocol":   "Sec-WebSocket-Protocol",
	"Sec-Websocket-Version":    "Sec-WebSocket-Version",
}

// Spell writes the names of header's fields as RFC 6455 does. It comes last: such
// names are not canonical, so http.Header's methods do not find them.
func Spell(header http.Header) {
	for canonical, spelled := range spellings {
		if values, ok := header[canonical]; ok {
			delete(header, canonical)
			header[spelled] = values
		}
	}
}

// CheckResponse returns why a 101 does not accept a handshake that Spell has
// finished (RFC 6455, section 4.1), or nil.
func CheckResponse(request http.Header, response *http.Response) error {
	key := request[spellings["Sec-Websocket-Key"]]
	upgrade, accept := response.Header["Upgrade"], response.Header["Sec-Websocket-Accept"]
	switch {
	case !httpguts.HeaderValuesContainsToken(response.Header["Connection"], "upgrade"),
		len(upgrade) != 1 || !strings.EqualFold(upgrade[0], "websocket"):
		return errors.New("the 101 does not switch to WebSocket")
	case len(key) != 1 || len(accept) != 1 || accept[0] != Accept(key[0]):
		return errors.New("the Sec-WebSocket-Accept of the 101 does not match")
	}
	return nil
}

// Respond makes header that of the response which accepts r, a handshake that Check has
// found valid (RFC 6455, section 4.2.2). Of the subprotocols that r offers it takes the
// first, for a browser accepts nothing else than one of them; of extensions none.
func Respond(header http.Header, r *http.Request) {
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		if first, _, _ := strings.Cut(line, ","); httpguts.ValidHeaderFieldName(strings.TrimSpace(first)) {
			header["Sec-Websocket-Protocol"] = []string{strings.TrimSpace(first)}
			break
		}
	}
	if !Extended(r) {
		header["Connection"] = []string{"Upgrade"}
		header["Upgrade"] = []string{"websocket"}
		header["Sec-Websocket-Accept"] = []string{Accept(r.Header.Get("Sec-Websocket-Key"))}
		Spell(header)
	}
}

// Accept returns the Sec-WebSocket-Accept for key (RFC 6455, section 4.2.2).
func Accept(key string) string {
	sum := sha1.Sum([]byte(key + guid))
	return base64.StdEncoding.EncodeToString(sum[:])
}
