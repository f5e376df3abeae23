package watchrtcproxy

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/relay"
)

// faultInterval is how often faults of one relay at one stage are logged.
const faultInterval = 10 * time.Second

// fault is a failure of a relay, as the log tells it.
type fault struct {
	upstream string
	stage    relay.Stage
	text     string // without anything of the request
	hint     string // for what is no failure, but probably a mistake; a constant
	detail   zap.Field
}

// faults logs the process's faults: the first of a relay at a stage at once, and the
// others counted, every faultInterval.
var faults = &faultLog{counts: make(map[faultKey]*faultCount)}

type faultLog struct {
	mu     sync.Mutex // protects counts
	counts map[faultKey]*faultCount
}

// faultKey holds nothing that a client chooses, so there are few.
type faultKey struct {
	upstream string
	stage    relay.Stage
	hint     string
}

type faultCount struct {
	last fault
	n    int // not logged yet
}

func (l *faultLog) add(f fault) {
	if f.stage == relay.StageCanceled {
		return
	}
	key := faultKey{f.upstream, f.stage, f.hint}
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
		f.log(1)
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
		last.log(n)
	}
}

func (f fault) log(count int) {
	if f.hint != "" {
		f.logHint(count)
		return
	}
	fields := []zap.Field{
		zap.String("upstream", f.upstream),
		zap.String("stage", string(f.stage)),
		zap.String("error", f.text),
		zap.Int("count", count),
	}
	if f.detail.Type != 0 {
		fields = append(fields, f.detail)
	}
	logger().Warn("relay failed", fields...)
}

func (f fault) logHint(count int) {
	fields := []zap.Field{zap.String("upstream", f.upstream), zap.String("hint", f.hint), zap.Int("count", count)}
	if f.detail.Type != 0 {
		fields = append(fields, f.detail)
	}
	logger().Warn("probably a mistake", fields...)
}
