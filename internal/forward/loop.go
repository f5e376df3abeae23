package forward

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
)

// loopID names this process in CDN-Loop (RFC 8586, section 2).
var loopID = newLoopID()

func newLoopID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	return "watchrtc-proxy-" + hex.EncodeToString(id[:])
}

// IsLoop reports whether r has been through this process already.
func IsLoop(r *http.Request) bool {
	return slices.ContainsFunc(r.Header["Cdn-Loop"], func(line string) bool { return strings.Contains(line, loopID) })
}

// markLoop adds this process to r's CDN-Loop, which Connection cannot take away
// (RFC 8586, section 2).
func markLoop(header http.Header, r *http.Request) {
	header["Cdn-Loop"] = append(slices.Clone(r.Header["Cdn-Loop"]), loopID)
}
