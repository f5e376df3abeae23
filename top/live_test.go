package top

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gdamore/tcell/v3"
	"github.com/gdamore/tcell/v3/color"
	"github.com/gdamore/tcell/v3/vt"
	"go.uber.org/goleak"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// admin is a stand-in for the admin API, whose every status is the next of sampled.
type admin struct {
	*httptest.Server
	polls atomic.Int64
	gone  atomic.Bool // it closes connections without a response
}

func newAdmin(t *testing.T) *admin {
	a := new(admin)
	mux := http.NewServeMux()
	page := func(path string, content func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if a.gone.Load() {
				panic(http.ErrAbortHandler)
			}
			json.NewEncoder(w).Encode(content())
		})
	}
	page(adminapi.PathStatus, func() any { return sampled(int(a.polls.Add(1))).status })
	page(adminapi.PathTunnels, func() any { return adminapi.Tunnels{} })
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

// terminal is one that is looked at.
type terminal struct {
	vt.MockTerm
	mu      sync.Mutex
	written chan struct{} // closed when the application writes
}

func newTerminal(width, height int) *terminal {
	return &terminal{
		MockTerm: vt.NewMockTerm(vt.MockOptSize{X: vt.Col(width), Y: vt.Row(height)}),
		written:  make(chan struct{}),
	}
}

func (term *terminal) Write(p []byte) (int, error) {
	n, err := term.MockTerm.Write(p)
	term.mu.Lock()
	defer term.mu.Unlock()
	close(term.written)
	term.written = make(chan struct{})
	return n, err
}

func (term *terminal) text() string {
	size := term.Backend().GetSize()
	var b strings.Builder
	for y := range size.Y {
		for x := range size.X {
			b.WriteString(term.GetCell(vt.Coord{X: x, Y: y}).C)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// await waits until the screen has text.
func (term *terminal) await(t *testing.T, text string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		term.mu.Lock()
		written := term.written
		term.mu.Unlock()
		if strings.Contains(term.text(), text) {
			return
		}
		select {
		case <-written:
		case <-late:
			t.Fatalf("no %q in\n%s", text, term.text())
		}
	}
}

// TestLive is a view from its start to q, with all that happens to it.
func TestLive(t *testing.T) {
	t.Setenv("LC_ALL", "C.UTF-8")
	api := newAdmin(t)
	client, err := newClient(strings.TrimPrefix(api.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	term := newTerminal(80, 24)
	screen, err := tcell.NewTerminfoScreenFromTty(term, tcell.OptNegotiation(false))
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{address: address, client: client, every: time.Millisecond}
	s, err := w.poll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := &model{charset: localeCharset()}
	m.update(address, s, nil, s.at)
	over := make(chan error)
	go func() { over <- w.show(t.Context(), screen, m) }()

	term.await(t, "watchrtc-top  localhost:2019")
	term.await(t, " max ") // which takes polls
	api.gone.Store(true)
	term.await(t, "NO RESPONSE for")
	api.gone.Store(false)
	term.await(t, "q quit   p pause")
	term.SendRaw([]byte("p"))
	term.await(t, "PAUSED   p go on")
	polls := api.polls.Load()
	term.SetSize(vt.Coord{X: 40, Y: 13})
	term.await(t, "\nPAUSED   p go on   q quit ")
	if now := api.polls.Load(); now > polls+1 { // that one was under way
		t.Errorf("%d polls while it is paused", now-polls)
	}
	term.SendRaw([]byte("p\x0c"))
	term.await(t, "q quit   p pause")
	term.SendRaw([]byte("x"))
	term.SendRaw([]byte("q"))
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// TestLiveColours: none with NO_COLOR.
func TestLiveColours(t *testing.T) {
	for _, none := range []string{"", "1"} {
		t.Setenv("NO_COLOR", none)
		t.Setenv("TERM", "xterm-256color")
		term := newTerminal(80, 24)
		screen, err := tcell.NewTerminfoScreenFromTty(term, tcell.OptNegotiation(false))
		if err != nil {
			t.Fatal(err)
		}
		if err := screen.Init(); err != nil {
			t.Fatal(err)
		}
		draw(screen, watched(asciiSet, 9, draining))
		colours := make(map[color.Color]bool)
		for y := range vt.Row(24) {
			for x := range vt.Col(80) {
				colours[term.GetCell(vt.Coord{X: x, Y: y}).S.Fg()] = true
			}
		}
		screen.Fini()
		if len(colours) > 1 != (none == "") {
			t.Errorf("NO_COLOR=%q: the colours %v", none, colours)
		}
	}
}

func TestNewClient(t *testing.T) {
	for address, want := range map[string]string{
		"localhost:2019":            "",
		":2019":                     "",
		"[::1]:2019":                "",
		"tcp/127.0.0.1:2019":        "",
		"unix//run/caddy.sock":      "",
		"unix//run/caddy.sock|0220": "",
		"http://localhost:2019":     `address "http://localhost:2019": want host:port, or unix//path: it is no URL`,
		"localhost":                 "it needs one port",
		"localhost:0":               "it needs one port",
		"localhost:1-3":             "it needs one port",
		"localhost:x":               "invalid start port",
		"udp/localhost:2019":        "no network udp",
		"fd/3":                      "no network fd",
		"off":                       "it needs one port",
		"":                          "it needs one port",
	} {
		client, err := newClient(address)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", address, err)
			} else {
				client.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", address, err, want)
		}
	}
}

// TestStream: one line for each poll, with the error where there is no response.
func TestStream(t *testing.T) {
	api := newAdmin(t)
	client, err := newClient(strings.TrimPrefix(api.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r, out := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watch{address: address, client: client, out: out, every: time.Millisecond}
	over := make(chan error)
	go func() {
		err := w.stream(ctx)
		out.Close()
		over <- err
	}()
	lines := bufio.NewScanner(r)
	await := func(word string) {
		t.Helper()
		for range 100 {
			if !lines.Scan() || !json.Valid(lines.Bytes()) {
				t.Fatalf("%q, %v, want %s", lines.Text(), lines.Err(), word)
			}
			if strings.Contains(lines.Text(), word) {
				return
			}
		}
		t.Fatalf("no %s", word)
	}
	await(`"opened":`)
	api.gone.Store(true)
	await(`"error":"127.0.0.1:`)
	api.gone.Store(false)
	await(`"opened":`)
	cancel()
	for lines.Scan() {
	}
	if err := <-over; err != nil {
		t.Error(err)
	}

	// At the start it is an error.
	api.gone.Store(true)
	if err := w.stream(t.Context()); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("%v", err)
	}
}
