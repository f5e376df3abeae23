package tunnel

import (
	"sync/atomic"
	"testing"
	"time"
)

// hesitantLeg loses its processor whenever it has been stopped reading.
type hesitantLeg struct {
	Leg
	t    *testing.T
	over *atomic.Bool // Wait has returned
}

func (l hesitantLeg) stopReading() {
	l.use()
	l.Leg.stopReading()
	time.Sleep(time.Second)
}

func (l hesitantLeg) limitWriting(until time.Time) {
	l.use()
	l.Leg.limitWriting(until)
}

func (l hesitantLeg) use() {
	if l.over.Load() {
		l.t.Error("the leg is used after Wait has returned")
	}
}

// When Wait has returned nothing uses a leg: net/http panics where a stream's
// deadlines are set after its handler, and the stream may be another's by then.
func TestWaitForInterrupts(t *testing.T) {
	for name, stop := range map[string]func(c *peered){
		"cut off": func(c *peered) { c.cutOff() },
		"linger":  func(c *peered) { c.client.CloseWrite() },
		"drained": func(c *peered) { c.goAway(reasonDrained) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, func(r *fixture) {
				var over atomic.Bool
				clientLeg, client := memPair(room)
				relayLeg, relay := memPair(room)
				legOf := func(conn *memConn) Leg { return hesitantLeg{ConnLeg(conn, nil, false), t, &over} }
				tunnel := r.lease.Open(Info{}, legOf(clientLeg), legOf(relayLeg), 0)
				stop(&peered{tunnel, newEndpoint(t, client, true), newEndpoint(t, relay, false)})
				tunnel.Wait()
				over.Store(true)
				time.Sleep(2 * linger)
			})
		})
	}
}
