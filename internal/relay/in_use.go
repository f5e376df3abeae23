package relay

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// lastUse calls done when nobody uses something any more.
type lastUse struct {
	users atomic.Int64 // the configuration is one of them
	done  func()
}

func newLastUse(done func()) *lastUse {
	l := &lastUse{done: sync.OnceFunc(done)} // a request may come late
	l.begin()
	return l
}

func (l *lastUse) begin() { l.users.Add(1) }

func (l *lastUse) end() {
	if l.users.Add(-1) == 0 {
		l.done()
	}
}

// late is how long a configuration that has gone is used for requests that come late: over
// connections that clients have opened in the instant in which it was replaced.
const late = 5 * time.Second

func (l *lastUse) endLater() { time.AfterFunc(late, l.end) }

// inUse counts requests until their responses are closed. Caddy cleans a transport up when
// its configuration is replaced, and quic-go's then closes connections with all that is
// under way there.
type inUse struct {
	http.RoundTripper
	use *lastUse
}

func (t inUse) RoundTrip(req *http.Request) (*http.Response, error) {
	t.use.begin()
	response, err := t.RoundTripper.RoundTrip(req)
	if err != nil || response.Body == http.NoBody {
		t.use.end()
		return response, err
	}
	response.Body = &bodyInUse{response.Body, sync.OnceFunc(t.use.end)}
	return response, nil
}

type bodyInUse struct {
	io.ReadCloser
	end func()
}

func (b *bodyInUse) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
