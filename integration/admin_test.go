package integration_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// admin is a Caddy's admin API.
type admin struct {
	*http.Client
	url string
}

// withAdmin turns the admin API of a site on.
func withAdmin(t *testing.T, s *site) admin {
	t.Helper()
	address := wstest.FreeAddr(t)
	s.global += "\nadmin " + address
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(func() { stopAdmin(t) })
	return admin{&http.Client{Transport: transport, Timeout: patience}, "http://" + address}
}

// stopAdmin has a configuration without an admin API take over: otherwise that lives as
// long as the process.
func stopAdmin(t *testing.T) {
	t.Helper()
	if err := load(site{body: "respond 204"}, freePort(t)); err != nil {
		t.Error(err)
	}
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
}

// call returns the status and the whole response.
func (a admin) call(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	response, err := a.Do(request(t, method, a.url+path, strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// ask decodes the response, which must have a status.
func (a admin) ask(t *testing.T, method, path, body string, status int, into any) {
	t.Helper()
	got, text := a.call(t, method, path, body)
	if got != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, got, status, text)
	}
	if into == nil {
		return
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
}

func (a admin) status(t *testing.T) (s adminapi.Status) {
	t.Helper()
	a.ask(t, "GET", adminapi.PathStatus, "", http.StatusOK, &s)
	return s
}

// upstream returns the status of one.
func (a admin) upstream(t *testing.T, name string) adminapi.Upstream {
	t.Helper()
	for _, u := range a.status(t).Upstreams {
		if u.Name == name {
			return u
		}
	}
	t.Fatalf("no upstream %s", name)
	return adminapi.Upstream{}
}

func (a admin) tunnels(t *testing.T, query string) (list adminapi.Tunnels) {
	t.Helper()
	a.ask(t, "GET", adminapi.PathTunnels+"?"+query, "", http.StatusOK, &list)
	return list
}

func (a admin) drain(t *testing.T, body string) (d adminapi.DrainStarted) {
	t.Helper()
	a.ask(t, "POST", adminapi.PathDrain, body, http.StatusAccepted, &d)
	return d
}

// awaitDrains waits until so many drains are under way.
func (a admin) awaitDrains(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(a.status(t).Drains) != n; {
		if time.Now().After(deadline) {
			t.Fatalf("%+v, want %d drains", a.status(t).Drains, n)
		}
	}
}

// session opens a WebSocket with a session ID. The tunnel is there when it carries
// something: the client has its 101 a moment before.
func (p *proxy) session(t *testing.T, id string, fields ...string) *tunnel {
	t.Helper()
	c := p.open(t, http1, target+"&sessionId="+id, "", fields...)
	wantStatus(t, c.Response, http.StatusSwitchingProtocols)
	c.wantOpen(t)
	return c
}

// wantGoingAway reads the proxy's Close frame.
func (c *tunnel) wantGoingAway(t *testing.T) {
	t.Helper()
	if f, err := c.frames.Next(); err != nil || f.Code() != 1001 {
		t.Fatalf("%v, %v, want code 1001", f, err)
	}
	c.send(t, wstest.CloseFrame(1001))
	c.closeWrite()
	io.Copy(io.Discard, c.r)
}

// wantOpen has a WebSocket carry something.
func (c *tunnel) wantOpen(t *testing.T) {
	t.Helper()
	c.send(t, wstest.Message("hello"))
	if f, err := c.frames.Next(); err != nil || string(f.Payload) != "hello" {
		t.Fatalf("%v, %v, want it back", f, err)
	}
}

func TestAdminStatus(t *testing.T) {
	relay, other := newServer(t), newServer(t)
	s := mount(relay.upstream, "drain_window 1h")
	a := withAdmin(t, &s)
	p := start(t, s)
	first := a.status(t)
	if first.Version == "" || first.Engine != "event_loops" && first.Engine != "goroutines" || first.Stopping || len(first.Drains) > 0 {
		t.Errorf("%+v", first)
	}
	before := a.upstream(t, relay.upstream) // of an earlier test, if its relay had the same port
	c := p.session(t, "s")
	p.open(t, http1, target+"&status=418", "")
	u := a.upstream(t, relay.upstream)
	if !u.Configured || !u.Up || u.Draining || u.Tunnels != 1 || u.OpenedTotal != before.OpenedTotal+1 || u.ClosedTotal != before.ClosedTotal ||
		u.HandshakeFailuresTotal != before.HandshakeFailuresTotal+1 ||
		u.LastFailure == nil || u.LastFailure.Stage != "status" || u.LastFailure.Error != "the relay refused a handshake" || time.Since(u.LastFailure.Time) < 0 {
		t.Errorf("%+v, %+v", u, u.LastFailure)
	}
	if now := a.status(t); now.Tunnels != 1 || now.Handshakes != 0 {
		t.Errorf("%+v", now)
	}

	// A reload's drain is listed, and is no operator's.
	changed := mount(other.upstream)
	changed.global = s.global
	p.reload(t, changed)
	u = a.upstream(t, relay.upstream)
	if u.Configured || !u.Draining || u.Tunnels != 1 || !a.upstream(t, other.upstream).Configured {
		t.Errorf("%+v", u)
	}
	drains := a.status(t).Drains
	if len(drains) != 1 || drains[0].ID != 0 || drains[0].Upstream != relay.upstream || drains[0].Total != 1 || drains[0].Left != 1 ||
		time.Until(drains[0].Ends) < 50*time.Minute {
		t.Errorf("%+v", drains)
	}
	a.ask(t, "DELETE", adminapi.PathDrain+"/0", "", http.StatusNotFound, nil)

	// An operator's does not wait for a reload's.
	a.drain(t, `{"session_id":"s","window":"0s"}`)
	c.wantGoingAway(t)
	p.logs.awaitLines(t, 1, `"tunnel closed"`, relay.upstream)
	a.awaitDrains(t, 0)
	if u = a.upstream(t, relay.upstream); u.ClosedTotal != 1 || u.Tunnels != 0 || u.Draining {
		t.Errorf("%+v", u)
	}
}

func TestAdminTunnels(t *testing.T) {
	relay := newServer(t)
	s := mount(relay.upstream, "mask_client_ip")
	a := withAdmin(t, &s)
	p := start(t, s)
	clients := []string{"192.0.2.1", "192.0.2.77", "198.51.100.9", "2001:db8:1:2::3"}
	for i, client := range clients {
		c := p.session(t, fmt.Sprint("s", i), "X-Forwarded-For: "+client)
		for range i {
			c.wantOpen(t)
		}
	}
	stream := p.open(t, http2x, target+"&sessionId=s4", "", "X-Forwarded-For: 203.0.113.5")
	wantStatus(t, stream.Response, http.StatusOK)
	stream.wantOpen(t)

	sessions := func(list adminapi.Tunnels) string {
		var ids []string
		for _, tunnel := range list.Tunnels {
			ids = append(ids, tunnel.SessionID)
		}
		return strings.Join(ids, " ")
	}
	for query, want := range map[string]string{
		"":                                    "s4 s3 s2 s1 s0",
		"sort=newest&limit=2":                 "s4 s3",
		"sort=bytes&limit=2":                  "s3 s2",
		"sort=idle&limit=1":                   "s0",
		"session_id=s2":                       "s2",
		"session_id=none":                     "",
		"client_ip=192.0.2.0":                 "s1 s0", // as it is shown
		"client_ip=192.0.2.77":                "",
		"client_ip=192.0.0.0/16":              "s1 s0",
		"client_ip=::ffff:198.51.100.0":       "s2",
		"client_ip=::ffff:192.0.0.0/112":      "s1 s0",
		"client_ip=2001:db8::/32":             "s3",
		"client_ip=2001:db8:1::":              "s3",
		"client_ip=192.0.2.0&session_id=s0":   "s0",
		"upstream=" + relay.upstream:          "s4 s3 s2 s1 s0",
		"upstream=https" + relay.upstream[3:]: "s4 s3 s2 s1 s0",
		"upstream=production":                 "",
	} {
		if got := sessions(a.tunnels(t, query)); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}

	var pages []string
	for query := "limit=2"; ; {
		list := a.tunnels(t, query)
		pages = append(pages, sessions(list))
		if list.Next == nil {
			break
		}
		query = fmt.Sprintf("limit=2&before=%d", *list.Next)
	}
	if got := strings.Join(pages, ", "); got != "s4 s3, s2 s1, s0" {
		t.Errorf("pages %q", got)
	}

	newest := a.tunnels(t, "limit=1").Tunnels[0]
	if newest.Protocol != "HTTP/2" || newest.Upstream != relay.upstream || newest.ClientIP != "203.0.113.0" ||
		newest.BytesToRelay != 11 || newest.BytesToClient != 7 || newest.FramesToRelay != 1 || newest.FramesToClient != 1 ||
		newest.IdleSeconds < 0 || time.Since(newest.Opened) < 0 || newest.ID == 0 {
		t.Errorf("%+v", newest)
	}
	if oldest := a.tunnels(t, "session_id=s0").Tunnels[0]; oldest.Protocol != "HTTP/1.1" || oldest.BytesToRelay != 11 {
		t.Errorf("%+v", oldest)
	}
}

// TestAdminErrors: each names the parameter that is wrong.
func TestAdminErrors(t *testing.T) {
	s := mount(newServer(t).upstream)
	a := withAdmin(t, &s)
	start(t, s)
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/tunnels", "", 405, `method "POST": want GET`},
		{"PUT", "/status", "", 405, "want GET"},
		{"GET", "/drain", "", 405, "want POST"},
		{"POST", "/drain/1", "", 405, "want DELETE"},
		{"GET", "/status?x=1", "", 400, `"x": there are no parameters`},
		{"GET", "/tunnels?limits=5", "", 400, `"limits": no such parameter; want one of limit, before, sort, upstream, client_ip, session_id`},
		{"GET", "/tunnels?limit=1&limit=2", "", 400, "limit: comes 2 times"},
		{"GET", "/tunnels?limit=0", "", 400, `limit: "0": want a number from 1 to 1000`},
		{"GET", "/tunnels?limit=1001", "", 400, "limit:"},
		{"GET", "/tunnels?limit=many", "", 400, "limit:"},
		{"GET", "/tunnels?before=-1", "", 400, `before: "-1": want the ID of a tunnel`},
		{"GET", "/tunnels?before=5&sort=idle", "", 400, "before:"},
		{"GET", "/tunnels?sort=oldest", "", 400, `sort: "oldest": want one of newest, bytes, idle`},
		{"GET", "/tunnels?client_ip=192.0.2", "", 400, `client_ip: "192.0.2": want an address`},
		{"GET", "/tunnels?client_ip=192.0.2.0/33", "", 400, "client_ip:"},
		{"GET", "/tunnels?upstream=stageing", "", 400, "upstream: "},
		{"GET", "/tunnels?a=%zz", "", 400, "the query: "},
		{"POST", "/drain", "", 400, "the body: "},
		{"POST", "/drain", "{}", 400, "the body: want at least one of all, upstream, client_ip, session_id, count, fraction"},
		{"POST", "/drain", `{"window":"5s","all":false}`, 400, "the body: want at least one"},
		{"POST", "/drain", `{"all":true} {"all":true}`, 400, "the body: there is more"},
		{"POST", "/drain", `{"all":true}}`, 400, "the body: there is more"},
		{"POST", "/drain", `{"all":true}]`, 400, "the body: there is more"},
		{"POST", "/drain", `{"al":true}`, 400, `unknown field \"al\"`},
		{"POST", "/drain", `{"count":"5"}`, 400, "count"},
		{"POST", "/drain", `{"count":-1}`, 400, "count: -1: want"},
		{"POST", "/drain", `{"fraction":1.5}`, 400, "fraction: 1.5: want a number from 0 to 1"},
		{"POST", "/drain", `{"fraction":0.5,"count":1}`, 400, "fraction: does not go with count"},
		{"POST", "/drain", `{"all":true,"window":"soon"}`, 400, `window: \"soon\": want a duration from 0s to 24h`},
		{"POST", "/drain", `{"all":true,"window":"-1s"}`, 400, "window:"},
		{"POST", "/drain", `{"all":true,"window":"25h"}`, 400, "window:"},
		{"POST", "/drain", `{"client_ip":"x"}`, 400, "client_ip:"},
		{"POST", "/drain", `{"upstream":"x"}`, 400, "upstream:"},
		{"POST", "/drain", `{"session_id":"` + strings.Repeat("x", 70<<10) + `"}`, 400, "the body:"},
		{"POST", "/drain?all=true", `{"all":true}`, 400, "there are no parameters"},
		{"DELETE", "/drain/x", "", 400, `id: \"x\": want the number of a drain`},
		{"DELETE", "/drain/", "", 400, "id:"},
		{"DELETE", "/drain/123456789", "", 404, "id: no drain 123456789 is under way"},
	} {
		status, text := a.call(t, test.method, "/watchrtc_proxy"+test.path, test.body)
		var response struct{ Error string }
		err := json.Unmarshal([]byte(text), &response)
		if status != test.status || err != nil || !strings.Contains(text, strings.ReplaceAll(strings.ReplaceAll(test.want, `\"`, `"`), `"`, `\"`)) {
			t.Errorf("%s %s %.80s: %d %s, want %d %s", test.method, test.path, test.body, status, text, test.status, test.want)
		}
	}
}

// TestAdminDrain: the tunnels that are chosen close, oldest first, and others and new
// ones do not.
func TestAdminDrain(t *testing.T) {
	relay := newServer(t)
	s := mount(relay.upstream)
	a := withAdmin(t, &s)
	p := start(t, s)
	var clients []*tunnel
	for i := range 6 {
		clients = append(clients, p.session(t, fmt.Sprint("s", i), fmt.Sprint("X-Forwarded-For: 192.0.2.", i)))
	}
	for _, test := range []struct {
		body  string
		total int
	}{
		{`{"session_id":"none","window":"0s"}`, 0},
		{`{"count":0,"window":"0s"}`, 0},
		{`{"count":1,"window":"0s"}`, 1},
		{`{"all":true,"fraction":0.3,"window":"0s"}`, 2}, // of 5
		{`{"client_ip":"192.0.2.3","upstream":"` + relay.upstream + `","window":"10ms"}`, 1},
	} {
		d := a.drain(t, test.body)
		if d.Total != test.total {
			t.Fatalf("%s: %+v, want %d", test.body, d, test.total)
		}
		for range d.Total {
			clients[0].wantGoingAway(t)
			clients = clients[1:]
		}
		a.awaitDrains(t, 0)
	}
	for _, c := range append(clients, p.session(t, "new")) {
		c.wantOpen(t)
	}
	if lines, _ := p.logs.matching(`"tunnel closed"`, relay.upstream, `"closed_by":"proxy"`, `"reason":"drained"`); len(lines) != 4 {
		t.Errorf("%d tunnels were drained", len(lines))
	}
	if d := a.drain(t, `{"session_id":"none"}`); d.Window != "20s" {
		t.Errorf("%+v", d)
	}
}

// TestAdminDrainStopped: what has not been told to go stays open. There is a bound on
// how many drains are under way.
func TestAdminDrainStopped(t *testing.T) {
	s := mount(newServer(t).upstream)
	a := withAdmin(t, &s)
	p := start(t, s)
	c := p.session(t, "s")
	const most = 16
	var ids []uint64
	for range most {
		ids = append(ids, a.drain(t, `{"all":true,"window":"24h"}`).ID)
	}
	if status, text := a.call(t, "POST", adminapi.PathDrain, `{"all":true}`); status != http.StatusConflict {
		t.Errorf("%d %s", status, text)
	}
	drains := a.status(t).Drains
	if len(drains) != most || drains[0].ID != ids[0] || drains[0].Total != 1 || drains[0].Left != 1 || drains[0].Upstream != "" || time.Until(drains[0].Ends) < 23*time.Hour {
		t.Errorf("%+v", drains)
	}
	// A reload does not end them.
	s.body += "\nrespond /new 204"
	p.reload(t, s)
	a.awaitDrains(t, most)
	for _, id := range ids {
		a.ask(t, "DELETE", fmt.Sprint(adminapi.PathDrain, "/", id), "", http.StatusNoContent, nil)
		a.ask(t, "DELETE", fmt.Sprint(adminapi.PathDrain, "/", id), "", http.StatusNotFound, nil)
	}
	a.awaitDrains(t, 0)
	c.wantOpen(t)
}

// TestAdminDrainMeetsReload: a reload's drain closes what an operator's has not closed
// yet, and nothing is closed twice.
func TestAdminDrainMeetsReload(t *testing.T) {
	relay, other := newServer(t), newServer(t)
	s := mount(relay.upstream) // with a window of 0
	a := withAdmin(t, &s)
	p := start(t, s)
	c := p.session(t, "s")
	d := a.drain(t, `{"all":true,"window":"24h"}`)
	changed := mount(other.upstream)
	changed.global = s.global
	p.reload(t, changed)
	c.wantGoingAway(t)
	p.logs.awaitLines(t, 1, `"tunnel closed"`, relay.upstream)
	for _, drain := range a.status(t).Drains { // the reload's may just be ending
		if drain.ID == d.ID && drain.Left != 0 {
			t.Errorf("%+v", drain)
		}
	}
	a.ask(t, "DELETE", fmt.Sprint(adminapi.PathDrain, "/", d.ID), "", http.StatusNoContent, nil)
	if lines, _ := p.logs.matching(`"tunnel closed"`, relay.upstream); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
}
