//go:build !unix

package http1

import "net"

// Supported: not here, where a socket cannot be looked at without reading.
const Supported = false

type quietness struct{}

func newQuietness(net.Conn) quietness { return quietness{} }
func (quietness) check() bool         { return false }
func (quietness) takes() bool         { return false }
