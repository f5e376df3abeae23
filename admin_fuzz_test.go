package watchrtcproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// FuzzAdmin asks the admin API with any parameters. It responds with JSON of the
// documented form, or with an error that names what is wrong; the tunnels listed are those
// that the parameters choose, in order; a drain takes no more than there are.
func FuzzAdmin(f *testing.F) {
	fixture := &fuzzTunnels{}
	f.Cleanup(fixture.close)
	f.Fuzz(func(t *testing.T, endpoint uint, query, text string) {
		fixture.ensure()
		all := listTunnels(t, "limit=1000")
		switch endpoint % 4 {
		case 0:
			askAdmin(t, http.MethodGet, adminapi.PathStatus, query, "", new(adminapi.Status))
		case 1:
			if query, err := url.ParseQuery(query); err == nil {
				checkTunnels(t, all, listTunnels(t, query.Encode()), query)
			} else {
				listTunnels(t, query.Encode())
			}
		case 2:
			var started adminapi.DrainStarted
			if askAdmin(t, http.MethodPost, adminapi.PathDrain, query, text, &started) != http.StatusAccepted {
				return
			}
			if started.Total < 0 || started.Total > len(all) {
				t.Errorf("%d of %d tunnels are drained", started.Total, len(all))
			}
			askAdmin(t, http.MethodDelete, fmt.Sprint(adminapi.PathDrain, "/", started.ID), "", "", nil)
		case 3:
			askAdmin(t, http.MethodDelete, adminapi.PathDrain+"/"+text, query, "", nil)
		}
	})
}

// listTunnels returns the tunnels that a query asks for, or nil where it is refused.
func listTunnels(t *testing.T, query string) []adminapi.Tunnel {
	response := adminapi.Tunnels{}
	if askAdmin(t, http.MethodGet, adminapi.PathTunnels, query, "", &response) != http.StatusOK {
		return nil
	}
	return response.Tunnels
}

// askAdmin returns the status of a response, which it has put into response.
func askAdmin(t *testing.T, method, path, query, body string, response any) (status int) {
	t.Helper()
	r := &http.Request{
		Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: make(http.Header),
		Body: io.NopCloser(strings.NewReader(body)),
	}
	w := httptest.NewRecorder()
	err := adminHandler(path).ServeHTTP(w, r.WithContext(t.Context()))
	var apiError caddy.APIError
	if errors.As(err, &apiError) {
		wantNamed(t, apiError, path)
		return apiError.HTTPStatus
	}
	if err != nil {
		t.Fatalf("%s %s?%s: %v, which is a 500", method, path, query, err)
	}
	if response == nil {
		if w.Code != http.StatusNoContent || w.Body.Len() > 0 {
			t.Errorf("%s %s: status %d, %q", method, path, w.Code, w.Body)
		}
		return w.Code
	}
	decoder := json.NewDecoder(w.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(response); err != nil || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s %s?%s: %v, %v", method, path, query, w.Header(), err)
	}
	return w.Code
}

func adminHandler(path string) (handler caddy.AdminHandler) {
	for _, route := range (adminAPI{}).Routes() {
		if route.Pattern == path || strings.HasSuffix(route.Pattern, "/") && strings.HasPrefix(path, route.Pattern) {
			handler = route.Handler
		}
	}
	return handler
}

// wantNamed checks that an error says what is wrong.
func wantNamed(t *testing.T, err caddy.APIError, path string) {
	t.Helper()
	names := []string{
		"limit: ", "before: ", "sort: ", "upstream: ", "client_ip: ", "session_id: ", "count: ", "fraction: ", "window: ",
		"the query: ", "the body: ", "id: ", `"`,
	}
	named := slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(err.Error(), name) })
	switch {
	case err.HTTPStatus == http.StatusBadRequest && named:
	case err.HTTPStatus == http.StatusNotFound && strings.HasPrefix(err.Error(), "id: ") && path != adminapi.PathDrain:
	case err.HTTPStatus == http.StatusConflict && path == adminapi.PathDrain:
	default:
		t.Errorf("%s: status %d, %q", path, err.HTTPStatus, err.Error())
	}
}

// checkTunnels compares what a query has listed with a slow and simple reading of it.
func checkTunnels(t *testing.T, all, listed []adminapi.Tunnel, query url.Values) {
	if listed == nil {
		return
	}
	var want []adminapi.Tunnel
	for _, tunnel := range all {
		if chosenBy(tunnel, query) {
			want = append(want, tunnel)
		}
	}
	limit := adminapi.DefaultLimit
	if query.Has("limit") {
		fmt.Sscan(query.Get("limit"), &limit)
	}
	if len(listed) != min(limit, len(want)) {
		t.Errorf("%v lists %d tunnels, want %d of %d", query, len(listed), limit, len(want))
	}
	for i, tunnel := range listed {
		if !slices.ContainsFunc(want, func(w adminapi.Tunnel) bool { return w.ID == tunnel.ID }) {
			t.Errorf("%v lists %+v", query, tunnel)
		}
		if i > 0 && !inOrder(listed[i-1], tunnel, query.Get("sort")) {
			t.Errorf("%v lists %+v before %+v", query, listed[i-1], tunnel)
		}
	}
}

func chosenBy(tunnel adminapi.Tunnel, query url.Values) bool {
	before := uint64(0)
	fmt.Sscan(query.Get("before"), &before)
	if before > 0 && tunnel.ID >= before || query.Get("session_id") != "" && tunnel.SessionID != query.Get("session_id") {
		return false
	}
	if name := query.Get("upstream"); name != "" {
		if up, err := parseUpstream(name); err != nil || up.name != tunnel.Upstream {
			return false
		}
	}
	text := query.Get("client_ip")
	if text == "" {
		return true
	}
	addr, err := netip.ParseAddr(tunnel.ClientIP)
	if prefix, notRange := netip.ParsePrefix(text); notRange == nil {
		mapped := prefix.Addr().Is4In6() && prefix.Bits() >= 96 && prefix.Contains(netip.AddrFrom16(addr.As16()))
		return err == nil && (prefix.Contains(addr) || mapped)
	}
	want, _ := netip.ParseAddr(text)
	return err == nil && want.Unmap() == addr
}

func inOrder(a, b adminapi.Tunnel, sort string) bool {
	switch sort {
	case adminapi.SortBytes:
		return a.BytesToClient+a.BytesToRelay >= b.BytesToClient+b.BytesToRelay
	case adminapi.SortIdle:
		return true // time goes on between the two looks
	}
	return a.ID > b.ID
}

// fuzzTunnels are a few tunnels to be listed and drained.
type fuzzTunnels struct {
	leases []*tunnel.Lease
	open   []*tunnel.Tunnel
	conns  []net.Conn
}

var fuzzTunnelInfos = []tunnel.Info{
	{Upstream: "wss://relay.example", ClientIP: "192.0.2.1", SessionID: "one", HTTP: 1},
	{Upstream: "wss://relay.example", ClientIP: "192.0.2.2", SessionID: "two", HTTP: 2},
	{Upstream: "wss://relay.example", ClientIP: "2001:db8::1", HTTP: 3},
	{Upstream: "ws://other.example:8080/base", ClientIP: "", SessionID: "one", HTTP: 1},
	{Upstream: "ws://other.example:8080/base", ClientIP: "192.0.2.1", SessionID: "s\x00\u00e9", HTTP: 1},
}

// ensure opens all of them, unless they are open.
func (f *fuzzTunnels) ensure() {
	if len(tunnels.Tunnels()) == len(fuzzTunnelInfos) && f.leases != nil {
		return
	}
	f.close()
	for _, info := range fuzzTunnelInfos {
		lease := tunnels.Lease(info.Upstream, 0, nil)
		f.leases = append(f.leases, lease)
		client, ofClient := net.Pipe()
		relay, ofRelay := net.Pipe()
		f.open = append(f.open, lease.Open(info, tunnel.ConnLeg(ofClient, nil, false), tunnel.ConnLeg(ofRelay, nil, false), 0))
		f.conns = append(f.conns, client, relay)
		for _, conn := range []net.Conn{client, relay} {
			go io.Copy(io.Discard, conn)
		}
	}
}

func (f *fuzzTunnels) close() {
	for _, conn := range f.conns {
		conn.Close()
	}
	for _, open := range f.open {
		open.Wait()
	}
	for _, lease := range f.leases {
		lease.Release()
	}
	f.conns, f.open, f.leases = nil, nil, nil
}
