//go:build !linux

package tunnel

const haveLoops = false

// newLoopEngine: there are event loops on Linux only.
func (t *Tunnel) newLoopEngine() engine { return nil }
