package watchrtcproxy

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/stats"
)

// faultInterval is how often faults of one relay at one stage are logged.
const faultInterval = 10 * time.Second

// fault is a failure of a relay, as the log tells it.
type fault struct {
	upstream string
	stage    relay.Stage
	text     string // without anything of the request
	hint     string // for what is no failure, but probably a mistake; a constant
	down     bool   // the relay is down
	served   bool   // the relay was reached all the same
	detail   zap.Field
}

// faults logs what relays do wrong: the first fault of a relay at a stage at once, and
// the others counted, every faultInterval. Each line says whether the relay is up; where
// one has said that it is not, another says when it is back. However often a relay goes
// and comes, this is a line or two for each stage in an interval.
var faults = newFaultLog(logger)

type faultLog struct {
	logger func() *zap.Logger

	mu     sync.Mutex // protects what follows
	counts map[faultKey]*faultCount
	down   map[string]bool // the upstreams that the last line has said to be down
}

func newFaultLog(logger func() *zap.Logger) *faultLog {
	return &faultLog{logger: logger, counts: make(map[faultKey]*faultCount), down: make(map[string]bool)}
}

// faultKey holds nothing that a client chooses, so there are few.
type faultKey struct {
	upstream string
	stage    relay.Stage
	hint     string
	served   bool
}

type faultCount struct {
	last fault
	n    int // not logged yet
}

func (l *faultLog) add(f fault) {
	if f.hint == "" && !f.served {
		totals.Upstream(f.upstream).Fail(stats.Failure{Time: time.Now(), Stage: string(f.stage), Text: f.text}, f.down)
	}
	key := faultKey{f.upstream, f.stage, f.hint, f.served}
	l.mu.Lock()
	count, ok := l.counts[key]
	if ok {
		count.last = f
		count.n++
	} else {
		l.counts[key] = &faultCount{last: f}
		time.AfterFunc(faultInterval, func() { l.summarize(key) })
	}
	l.mu.Unlock()
	if !ok {
		l.log(f, 1)
	}
}

// responded says that a relay has responded, whatever its status.
func (l *faultLog) responded(upstream *stats.Upstream) {
	outage, wasDown := upstream.Respond()
	if !wasDown {
		return
	}
	l.mu.Lock()
	told := l.down[upstream.Name]
	delete(l.down, upstream.Name)
	l.mu.Unlock()
	if told {
		l.logger().Info("relay is back",
			zap.String("upstream", upstream.Name),
			zap.Duration("down_for", outage.Duration),
			zap.Int("failures", outage.Failures))
	}
}

// summarize logs what has come since, and forgets a key after an interval without
// faults.
func (l *faultLog) summarize(key faultKey) {
	l.mu.Lock()
	count, ok := l.counts[key]
	if !ok {
		l.mu.Unlock()
		return
	}
	last, n := count.last, count.n
	if n == 0 {
		delete(l.counts, key)
	} else {
		count.n = 0
		time.AfterFunc(faultInterval, func() { l.summarize(key) })
	}
	l.mu.Unlock()
	if n > 0 {
		l.log(last, n)
	}
}

func (l *faultLog) log(f fault, count int) {
	switch {
	case f.hint != "":
		l.logHint(f, count)
		return
	case f.served:
		l.logger().Warn("relay reached in spite of a failure", zap.String("upstream", f.upstream),
			zap.String("stage", string(f.stage)), zap.String("error", f.text), zap.Int("count", count))
		return
	}
	up := totals.Upstream(f.upstream).Up()
	l.mu.Lock()
	if up {
		delete(l.down, f.upstream)
	} else {
		l.down[f.upstream] = true
	}
	l.mu.Unlock()
	fields := []zap.Field{
		zap.String("upstream", f.upstream),
		zap.String("stage", string(f.stage)),
		zap.String("error", f.text),
		zap.Int("count", count),
		zap.Bool("up", up),
	}
	if f.detail.Type != 0 {
		fields = append(fields, f.detail)
	}
	l.logger().Warn("relay failed", fields...)
}

func (l *faultLog) logHint(f fault, count int) {
	fields := []zap.Field{zap.String("upstream", f.upstream), zap.String("hint", f.hint), zap.Int("count", count)}
	if f.detail.Type != 0 {
		fields = append(fields, f.detail)
	}
	l.logger().Warn("probably a mistake", fields...)
}
