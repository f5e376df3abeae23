package adminapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClient asks, over TCP and over a unix socket.
func TestClient(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Host + r.RequestURI {
		case "api.example" + PathStatus:
			fmt.Fprint(w, `{"version":"v1","tunnels":3}`)
		case "api.example" + PathTunnels + "?limit=5&sort=idle":
			fmt.Fprint(w, `{"tunnels":[{"id":7}],"next":null}`)
		case "api.example" + PathMetrics:
			fmt.Fprint(w, "up 1\n")
		default:
			t.Errorf("asked for %s%s", r.Host, r.RequestURI)
		}
	})
	for _, network := range []string{"tcp", "unix"} {
		ln := listen(t, network)
		serve(t, ln, handler)
		c := NewClient(network, ln.Addr().String(), "api.example", 10*time.Second)
		defer c.Close()
		if s, err := c.Status(t.Context()); err != nil || s.Version != "v1" || s.Tunnels != 3 {
			t.Errorf("%s: %+v, %v", network, s, err)
		}
		if list, err := c.Tunnels(t.Context(), SortIdle, 5); err != nil || len(list.Tunnels) != 1 || list.Tunnels[0].ID != 7 {
			t.Errorf("%s: %+v, %v", network, list, err)
		}
		if page, err := c.Metrics(t.Context()); err != nil || string(page) != "up 1\n" {
			t.Errorf("%s: %q, %v", network, page, err)
		}
	}
}

func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "api") // short enough for a socket's name
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func serve(t *testing.T, ln net.Listener, handler http.Handler) {
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	t.Cleanup(server.Close)
}

// TestClientErrors say in words what is wrong.
func TestClientErrors(t *testing.T) {
	respond := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"older plugin":   {respond(404, "404 page not found\n"), "has no /watchrtc_proxy/status: is it Caddy's admin API"},
		"host forbidden": {respond(403, `{"error":"host not allowed: api.example"}`), `refuses requests for "api.example" (host not allowed: api.example)`},
		"broken":         {respond(500, "\x1b[2J"+strings.Repeat("x", 500)), `status 500 ("\x1b[2J` + strings.Repeat("x", 76) + `")`},
		"redirect":       {respond(301, ""), `status 301 ("")`},
		"web server":     {respond(200, "<html>"), "is not Caddy's admin API: its response is not the JSON of /watchrtc_proxy/status"},
		"endless":        {respond(200, strings.Repeat(" ", maxResponse+1)), "is larger than 16 MiB"},
		"hangs up":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ": EOF"},
	} {
		ln := listen(t, "tcp")
		serve(t, ln, test.handler)
		wantError(t, name, "tcp", ln.Addr().String(), test.want)
	}

	nobody := listen(t, "tcp")
	nobody.Close()
	wantError(t, "nobody", "tcp", nobody.Addr().String(), "nothing listens at 127.0.0.1:")
	wantError(t, "no socket", "unix", "/nowhere/s", "there is no socket /nowhere/s")

	silent := listen(t, "tcp")
	defer silent.Close()
	c := NewClient("tcp", silent.Addr().String(), "api.example", 50*time.Millisecond)
	if _, err := c.Status(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "does not respond within 50ms") {
		t.Errorf("silent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := NewClient("tcp", silent.Addr().String(), "no host", time.Second).Status(t.Context()); err == nil {
		t.Error("no host: no error")
	}
}

func wantError(t *testing.T, name, network, address, want string) {
	t.Helper()
	c := NewClient(network, address, "api.example", 10*time.Second)
	defer c.Close()
	_, err := c.Status(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
		t.Errorf("%s: %v, want %s", name, err, want)
	}
	if strings.HasPrefix(want, "has no") != errors.Is(err, ErrNotFound) {
		t.Errorf("%s: %v is ErrNotFound: %t", name, err, errors.Is(err, ErrNotFound))
	}
}
