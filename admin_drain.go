package watchrtcproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// maxDrains bounds the drains that are under way: each keeps its tunnels in memory
// until it is over.
const maxDrains = 16

// drains are those that operators have asked for. They know nothing of drains by
// reloads and stops, and those nothing of them: a tunnel goes with whichever tells it
// first.
var drains drainList

type drainList struct {
	mu   sync.Mutex // protects what follows
	last uint64
	all  []*adminDrain // oldest first
}

// adminDrain closes a set of tunnels.
type adminDrain struct {
	id       uint64
	upstream string
	tunnels  []*tunnel.Tunnel
	ends     time.Time

	cancel context.CancelFunc
	told   chan struct{} // closed when no more tunnels are told to go
}

func postDrain(r *http.Request) (int, any, error) {
	if _, err := parameters(r); err != nil {
		return 0, nil, err
	}
	var asked adminapi.DrainRequest
	if err := decode(r.Body, &asked); err != nil {
		return 0, nil, err
	}
	window, err := checkDrain(&asked)
	if err != nil {
		return 0, nil, err
	}
	filter, err := parseTunnelFilter(asked.Upstream, asked.ClientIP, asked.SessionID)
	if err != nil {
		return 0, nil, err
	}
	chosen := filter.choose()
	chosen = chosen[:howMany(&asked, len(chosen))]
	d, err := drains.start(filter.upstream, chosen, window)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, adminapi.DrainStarted{ID: d.id, Total: len(chosen), Window: window.String()}, nil
}

// checkDrain returns the window of a request that can be carried out.
func checkDrain(asked *adminapi.DrainRequest) (window time.Duration, err error) {
	none := adminapi.DrainRequest{Window: asked.Window}
	switch {
	case *asked == none:
		return 0, badRequest("the body", errors.New("want at least one of all, upstream, client_ip, session_id, count, fraction"))
	case asked.Count != nil && asked.Fraction != nil:
		return 0, badRequest("fraction", errors.New("does not go with count"))
	case asked.Count != nil && *asked.Count < 0:
		return 0, badRequest("count", fmt.Errorf("%d: want a number from 0", *asked.Count))
	case asked.Fraction != nil && (*asked.Fraction < 0 || *asked.Fraction > 1):
		return 0, badRequest("fraction", fmt.Errorf("%v: want a number from 0 to 1", *asked.Fraction))
	}
	window, err = caddy.ParseDuration(cmp.Or(asked.Window, adminapi.DefaultWindow.String()))
	if err != nil || window < 0 || window > adminapi.MaxWindow {
		return 0, badRequest("window", fmt.Errorf("%q: want a duration from 0s to %s", asked.Window, adminapi.MaxWindow))
	}
	return window, nil
}

// howMany returns how many of n tunnels are asked for.
func howMany(asked *adminapi.DrainRequest, n int) int {
	switch {
	case asked.Count != nil:
		return min(*asked.Count, n)
	case asked.Fraction != nil:
		return int(math.Ceil(*asked.Fraction * float64(n)))
	}
	return n
}

func (l *drainList) start(upstream string, chosen []*tunnel.Tunnel, window time.Duration) (*adminDrain, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) >= maxDrains {
		return nil, caddy.APIError{
			HTTPStatus: http.StatusConflict,
			Err:        fmt.Errorf("%d drains are under way, which is the most; stop one, or wait for its end", maxDrains),
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.last++
	d := &adminDrain{
		id: l.last, upstream: upstream, tunnels: chosen, ends: time.Now().Add(window),
		cancel: cancel, told: make(chan struct{}),
	}
	l.all = append(l.all, d)
	go l.run(ctx, d, window)
	return d, nil
}

// run ends when the tunnels have closed, or the drain is stopped.
func (l *drainList) run(ctx context.Context, d *adminDrain, window time.Duration) {
	defer l.forget(d)
	tunnel.Drain(ctx, slices.Clone(d.tunnels), window)
	close(d.told)
	if ctx.Err() != nil {
		return
	}
	for _, t := range d.tunnels {
		t.AwaitEnd()
	}
}

func (l *drainList) forget(d *adminDrain) {
	d.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(other *adminDrain) bool { return other == d })
}

func deleteDrain(r *http.Request) (int, any, error) {
	if _, err := parameters(r); err != nil {
		return 0, nil, err
	}
	name := strings.TrimPrefix(r.URL.Path, adminapi.PathDrain+"/")
	id, err := strconv.ParseUint(name, 10, 64)
	if err != nil {
		return 0, nil, badRequest("id", fmt.Errorf("%q: want the number of a drain", name))
	}
	d := drains.find(id)
	if d == nil {
		return 0, nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("id: no drain %d is under way", id)}
	}
	// From the response on, no tunnel is told to go.
	d.cancel()
	<-d.told
	drains.forget(d)
	return http.StatusNoContent, nil, nil
}

func (l *drainList) find(id uint64) *adminDrain {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.all {
		if d.id == id {
			return d
		}
	}
	return nil
}

func (l *drainList) list() []adminapi.Drain {
	l.mu.Lock()
	all := slices.Clone(l.all)
	l.mu.Unlock()
	var list []adminapi.Drain
	for _, d := range all {
		list = append(list, adminapi.Drain{ID: d.id, Upstream: d.upstream, Total: len(d.tunnels), Left: d.left(), Ends: d.ends})
	}
	return list
}

// left counts the tunnels that are still open.
func (d *adminDrain) left() (n int) {
	for _, t := range d.tunnels {
		if t.Alive() {
			n++
		}
	}
	return n
}
