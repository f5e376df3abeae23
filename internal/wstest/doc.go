// Package wstest is what this repository's tests and bench share: one WebSocket frame codec
// (frame.go, reader.go), one maker of certificates (cert.go), data that proves where
// each byte belongs (data.go), addresses (addr.go), and clients and relays that speak
// HTTP and WebSocket by hand over real sockets (conn.go, http.go, relay.go).
//
// It imports no package of this module, so that every package of it can import
// wstest, and it shares no code with what it tests: a mistake in the one is not
// repeated in the other.
package wstest
