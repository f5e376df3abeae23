//go:build !linux

package tunnel

// prepareLoop: there are event loops on Linux only.
func (t *Tunnel) prepareLoop() (begin func()) { return nil }
