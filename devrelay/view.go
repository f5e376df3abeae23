package devrelay

import (
	"embed"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/devrelay/internal/lzstring"
)

// The live page is meant for a browser that visits the relay itself. Its data has
// no CORS header, so that no other site can read it.

//go:embed page
var pageFiles embed.FS

var pageAssets = func() http.Handler {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the name is a constant
	}
	return http.StripPrefix(viewPrefix, http.FileServerFS(files))
}()

const (
	viewPrefix = "/_relay/"

	// What one response of the state endpoint holds at most.
	viewItems     = 50
	viewTextBytes = 2 << 10

	// inflateLimit bounds what a compressed message is expanded to, in UTF-16 units.
	inflateLimit = 16 << 10
)

// serveView responds to requests for the live page, and reports whether it did.
func (r *Relay) serveView(w http.ResponseWriter, req *http.Request) bool {
	if req.Method != http.MethodGet && req.Method != http.MethodHead || isUpgrade(req) {
		return false
	}
	asset, below := strings.CutPrefix(req.URL.Path, viewPrefix)
	if !below && req.URL.Path != "/" {
		return false
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch {
	case asset == "state":
		writeJSON(w, http.StatusOK, r.view())
	case below:
		pageAssets.ServeHTTP(w, req)
	default:
		http.ServeFileFS(w, req, pageFiles, "page/index.html")
	}
	return true
}

// view is the relay's state as the live page shows it, newest first and without
// secrets.
type view struct {
	Opened      int64         `json:"opened"` // since the relay started
	Open        int           `json:"open"`
	Connections []connView    `json:"connections"`
	Messages    []messageView `json:"messages"`
	Requests    []requestView `json:"requests"`
}

type connView struct {
	ID          int64     `json:"id"`
	Open        bool      `json:"open"`
	Client      string    `json:"client"` // X-Forwarded-For
	Peer        string    `json:"remoteAddr"`
	URI         string    `json:"uri"`
	Subprotocol string    `json:"subprotocol"`
	Identity    Identity  `json:"identity"`
	Stats       Stats     `json:"stats"`
	OpenedAt    time.Time `json:"openedAt"`
	ClosedAt    time.Time `json:"closedAt,omitzero"`
	CloseCode   int       `json:"closeCode,omitempty"`
	CloseReason string    `json:"closeReason,omitempty"`
}

type messageView struct {
	Time       time.Time `json:"time"`
	Conn       int64     `json:"connection"`
	Seq        int64     `json:"seq"`
	Size       int64     `json:"size"`
	Text       string    `json:"text"`
	Compressed bool      `json:"compressed"` // by LZ-string, shown expanded
}

type requestView struct {
	Time     time.Time `json:"time"`
	Method   string    `json:"method"`
	URI      string    `json:"uri"`
	Client   string    `json:"client"`
	Size     int64     `json:"size"`
	Identity Identity  `json:"identity"`
	Text     string    `json:"text"`
}

func (r *Relay) view() view {
	conns, open, opened := r.connViews()
	return view{
		Opened:      opened,
		Open:        open,
		Connections: conns,
		Messages:    newest(r.Messages(), viewMessage),
		Requests:    newest(withoutHandshakes(r.Requests()), viewRequest),
	}
}

func (r *Relay) connViews() (views []connView, open int, opened int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if c.closedAt.IsZero() {
			open++
		}
	}
	return newest(r.conns, viewConn), open, r.opened
}

// newest shows the end of a list, latest first.
func newest[T, V any](list []T, show func(T) V) []V {
	views := make([]V, 0, min(len(list), viewItems))
	for _, item := range slices.Backward(list) {
		if len(views) == viewItems {
			break
		}
		views = append(views, show(item))
	}
	return views
}

// withoutHandshakes drops what is shown as a connection already.
func withoutHandshakes(requests []Request) []Request {
	return slices.DeleteFunc(requests, func(seen Request) bool {
		return strings.EqualFold(seen.Header.Get("Upgrade"), "websocket")
	})
}

// viewConn is called with the relay locked.
func viewConn(c *Conn) connView {
	return connView{
		ID:          c.ID,
		Open:        c.closedAt.IsZero(),
		Client:      forwardedFor(c.Request),
		Peer:        c.Request.RemoteAddr,
		URI:         clipText(redactURI(c.Request.URI), viewTextBytes),
		Subprotocol: c.Subprotocol,
		Identity:    c.identity,
		Stats:       c.stats,
		OpenedAt:    c.Request.Time,
		ClosedAt:    c.closedAt,
		CloseCode:   c.closeCode,
		CloseReason: c.closeReason,
	}
}

func viewMessage(m Message) messageView {
	shown := messageView{Time: m.Time, Conn: m.Conn.ID, Seq: m.Seq, Size: m.Size}
	if m.Type != websocket.MessageText {
		shown.Text = "(binary)"
		return shown
	}
	text, compressed := decodeText(m.Data)
	shown.Compressed = compressed
	shown.Text = clipText(redactText(text, m.Conn.Request), viewTextBytes)
	return shown
}

func viewRequest(seen Request) requestView {
	shown := requestView{
		Time:   seen.Time,
		Method: seen.Method,
		URI:    clipText(redactURI(seen.URI), viewTextBytes),
		Client: forwardedFor(seen),
		Size:   seen.BodySize,
	}
	text, _ := decodeText(seen.Body)
	shown.Text = clipText(redactText(text, seen), viewTextBytes)
	shown.Identity.learnText(text)
	return shown
}

func forwardedFor(seen Request) string {
	return clipText(strings.Join(seen.Header.Values("X-Forwarded-For"), ", "), 256)
}

// decodeText expands a message of the SDK's if it is compressed. Compressed text
// cannot be told from plain by its alphabet alone; what the SDK sends expands to
// JSON.
func decodeText(data []byte) (text string, compressed bool) {
	plain := strings.ToValidUTF8(string(data), "\ufffd")
	expanded, err := lzstring.Decompress(plain, inflateLimit)
	if errors.Is(err, lzstring.ErrCorrupt) || !strings.HasPrefix(expanded, "[") && !strings.HasPrefix(expanded, "{") {
		return plain, false
	}
	return expanded, true
}

// clipText cuts text to at most limit bytes, between characters, and marks the cut.
func clipText(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + " …"
}
