package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/browser"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

const (
	examples = "../examples/monitoring/"
	metric   = "caddy_watchrtc_proxy_"
)

// TestMonitoring has Debian's Prometheus, with the example's files, scrape a proxy that
// carries WebSockets, requests and a session of the SDK, through three reloads and an
// outage of the relay. The metrics are exactly what clients sent and got, each query of
// the rules and of the dashboard has data, and the outage's alert fires and is resolved.
func TestMonitoring(t *testing.T) {
	m := newMonitored(t)
	page := browser.Start(t, browser.NoQUIC).Open(t, servePages(t, sdkNew))
	page.Run(t, fmt.Sprintf("await start(%q, 'e2e-room')", m.sdk.url("wss")))

	l := &load{m: m, client: newClient(t, m.ca, stranger)}
	for i := range 3 {
		l.open(t, 4)
		talked := make(chan error, 1)
		go func() { talked <- l.talk(soon(t)) }()
		m.reload(t, fmt.Sprintf("header_up X-Reload %d", i))
		if err := <-talked; err != nil {
			t.Fatal(err)
		}
		l.post(t, 2, http.StatusOK)
		l.refused(t, 1)
	}
	m.await(t, l.figures())

	page.Await(t, patience, "connected()")
	page.Run(t, "watchRTC.disconnect()")
	page.Await(t, patience, "closes.at(-1)?.wasClean")
	m.await(t, m.sdkFigures(t))

	l.leave(t)
	m.outage(t, l)
	m.await(t, l.figures())
	m.askEverything(t)
}

// monitored is a proxy for two relays, with a Prometheus.
type monitored struct {
	*setup
	sdk        *setup // the same proxy, for the SDK alone, so that what it counts is apart
	metrics    string // the address of the site with the metrics
	prometheus string // URL
}

func newMonitored(t *testing.T) *monitored {
	t.Helper()
	m := &monitored{setup: newSetup(t, relay.Config{}, caddy.Config{}), metrics: wstest.FreeAddr(t)}
	sdk := *m.setup
	sdk.addr, sdk.relay = wstest.FreeAddr(t), relay.Start(t, m.ca, relay.Config{})
	m.sdk = &sdk
	m.reload(t)
	m.startPrometheus(t)
	return m
}

// reload loads both proxies, with options for both, and the example's site for metrics.
func (m *monitored) reload(t *testing.T, options ...string) {
	t.Helper()
	example := readExample(t, "Caddyfile")
	site := example[strings.Index(example, "http://127.0.0.1:9180"):]
	m.proxy.Load(t, m.site(m.relay.URL(), options...)+m.sdk.site(m.sdk.relay.URL(), options...)+
		strings.ReplaceAll(site, "127.0.0.1:9180", m.metrics))
}

func readExample(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(examples + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// quicker has a test's seconds stand for the minutes, hours and days of the rules.
var quicker = strings.NewReplacer("[1d] offset 1h", "[10s] offset 1s", "[1h]", "[30s]", "[5m]", "[10s]", "[3m]", "[6s]")

var (
	waiting  = regexp.MustCompile(`for: \d+m`)
	interval = regexp.MustCompile(`_interval: 15s`)
)

// startPrometheus runs it with the example's configuration and rules. What differs is the
// address, and that time goes faster: it scrapes and evaluates each second.
func (m *monitored) startPrometheus(t *testing.T) {
	t.Helper()
	program.WriteFile(t, "rules.yml", waiting.ReplaceAllString(quicker.Replace(readExample(t, "rules.yml")), "for: 2s"))
	config := strings.ReplaceAll(readExample(t, "prometheus.yml"), "127.0.0.1:9180", m.metrics)
	addr := wstest.FreeAddr(t)
	process := program.Start(t, "prometheus", exec.Command("prometheus",
		"--config.file="+program.WriteFile(t, "prometheus.yml", interval.ReplaceAllString(config, "_interval: 1s")),
		"--storage.tsdb.path="+filepath.Join(program.Dir(t), "prometheus.data"),
		"--web.listen-address="+addr))
	process.Await(t, patience, "Server is ready to receive web requests")
	m.prometheus = "http://" + addr
}

// ask sends a request to Prometheus's API and reads its data.
func (m *monitored) ask(t *testing.T, path string, data any) {
	t.Helper()
	resp, err := http.Get(m.prometheus + "/api/v1/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Data  json.RawMessage
		Error string
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Error != "" {
		t.Fatalf("%s: %v, %s", path, err, body.Error)
	}
	if err := json.Unmarshal(body.Data, data); err != nil {
		t.Fatal(err)
	}
}

// query returns the values that a query has now.
func (m *monitored) query(t *testing.T, expr string) (values []float64) {
	t.Helper()
	var data struct{ Result []struct{ Value [2]any } }
	m.ask(t, "query?query="+url.QueryEscape(expr), &data)
	for _, series := range data.Result {
		value, err := strconv.ParseFloat(series.Value[1].(string), 64)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
	}
	return values
}

// figures are queries, without the prefix, and the one value that each must have.
type figures map[string]float64

// await waits until a scrape has all of them.
func (m *monitored) await(t *testing.T, want figures) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var wrong []string
		for series, value := range want {
			if got := m.query(t, metric+series); len(got) != 1 || got[0] != value {
				wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", series, got, value))
			}
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(strings.Join(wrong, "\n"))
		}
	}
}

// load is what clients do, and what they have sent and got.
type load struct {
	m       *monitored
	client  *client
	tunnels []*websocket.Conn

	opened, left, broken, cut int
	failed                    int
	posts                     map[int]int // by status
	rejected                  int
	toRelay, toClient         traffic
}

// traffic counts frames, and their bytes with the headers.
type traffic struct{ frames, bytes int }

// add counts a frame (RFC 6455, section 5.2): the header has 2 bytes, and up to 8 more
// for the length; clients add a key of 4.
func (c *traffic) add(payload, key int) {
	c.frames++
	c.bytes += 2 + key + payload
	switch {
	case payload > 65535:
		c.bytes += 8
	case payload > 125:
		c.bytes += 2
	}
}

func (l *load) sent(payload int) { l.toRelay.add(payload, 4) }
func (l *load) got(payload int)  { l.toClient.add(payload, 0) }

// open has n more clients connect, and read the relay's greeting.
func (l *load) open(t *testing.T, n int) {
	t.Helper()
	for range n {
		ws, err := l.client.tryDial(t, l.m.url("wss"))
		if err != nil {
			t.Fatal(err)
		}
		ws.SetReadLimit(1 << 20)
		l.opened++
		l.tunnels = append(l.tunnels, ws)
		if err := l.read(soon(t), ws); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *load) read(ctx context.Context, ws *websocket.Conn) error {
	_, message, err := ws.Read(ctx)
	l.got(len(message))
	return err
}

// talk has each client send and get messages with each form of a frame's length, ten
// times.
func (l *load) talk(ctx context.Context) error {
	for range 10 {
		for _, size := range []int{0, 125, 126, 4096, 65536} {
			if err := l.exchange(ctx, []byte(strings.Repeat("x", size))); err != nil {
				return err
			}
		}
	}
	return nil
}

// exchange has each client send a message, and the relay one to each.
func (l *load) exchange(ctx context.Context, message []byte) error {
	for _, ws := range l.tunnels {
		if err := ws.Write(ctx, websocket.MessageText, message); err != nil {
			return err
		}
		l.sent(len(message))
	}
	for _, conn := range l.m.relay.Conns() {
		if err := conn.Send(ctx, websocket.MessageText, message); err != nil {
			return err
		}
	}
	for _, ws := range l.tunnels {
		if err := l.read(ctx, ws); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) post(t *testing.T, n, status int) {
	t.Helper()
	for range n {
		if got := l.client.post(t, l.m.url("https")+"/trace"); got != status {
			t.Fatalf("status %d, want %d", got, status)
		}
	}
	if l.posts == nil {
		l.posts = make(map[int]int)
	}
	l.posts[status] += n
}

// refused asks for a version of WebSocket that does not exist.
func (l *load) refused(t *testing.T, n int) {
	t.Helper()
	for range n {
		req, err := http.NewRequestWithContext(soon(t), http.MethodGet, l.m.url("https"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket",
			"Sec-WebSocket-Version": "12", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			req.Header.Set(name, value)
		}
		resp, err := l.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUpgradeRequired {
			t.Fatalf("status %d, want 426", resp.StatusCode)
		}
		l.rejected++
	}
}

// leave has half of the clients close their WebSockets and two vanish; the others stay.
func (l *load) leave(t *testing.T) {
	t.Helper()
	half := len(l.tunnels) / 2
	for _, ws := range l.tunnels[:half] {
		if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Fatal(err)
		}
		l.sent(2)
		l.got(2)
		l.left++
	}
	for _, ws := range l.tunnels[half : half+2] {
		_ = ws.CloseNow() // however it ends
		l.broken++
	}
	l.tunnels = l.tunnels[half+2:]
}

// figures is what the metrics must be.
func (l *load) figures() figures {
	own := fmt.Sprintf("upstream=%q", l.m.relay.URL())
	return figures{
		"tunnels{" + own + "}":                                             float64(len(l.tunnels)),
		"handshakes_in_flight{" + own + "}":                                0,
		"draining{" + own + "}":                                            0,
		"tunnels_opened_total{" + own + "}":                                float64(l.opened),
		"handshake_seconds_count{" + own + "}":                             float64(l.opened),
		"tunnel_duration_seconds_count{" + own + "}":                       float64(l.left + l.broken + l.cut),
		"tunnels_closed_total{" + own + `,by="client",code="1000"}`:        float64(l.left),
		"tunnels_closed_total{" + own + `,by="client",code="1006"}`:        float64(l.broken),
		"tunnels_closed_total{" + own + `,by="relay",code="1006"}`:         float64(l.cut),
		"handshake_failures_total{" + own + `,stage="connect"}`:            float64(l.failed),
		"bytes_total{" + own + `,direction="to_relay"}`:                    float64(l.toRelay.bytes),
		"bytes_total{" + own + `,direction="to_client"}`:                   float64(l.toClient.bytes),
		"frames_total{" + own + `,direction="to_relay"}`:                   float64(l.toRelay.frames),
		"frames_total{" + own + `,direction="to_client"}`:                  float64(l.toClient.frames),
		"fallback_requests_total{" + own + `,endpoint="trace",code="2xx"}`: float64(l.posts[http.StatusOK]),
		"fallback_requests_total{" + own + `,endpoint="trace",code="5xx"}`: float64(l.posts[http.StatusBadGateway]),
		`rejected_total{reason="handshake"}`:                               float64(l.rejected),
	}
}

// sdkFigures is what the SDK's relay has seen. The bytes are Chromium's to compress.
func (m *monitored) sdkFigures(t *testing.T) figures {
	t.Helper()
	var opened, in, out float64
	for _, conn := range m.sdk.relay.Conns() {
		select {
		case <-conn.Done():
		case <-time.After(patience):
			t.Fatal("the relay's leg is still open")
		}
		if code, _ := conn.CloseCode(); code != closeCode[sdkNew] {
			t.Errorf("the relay saw close code %d, want %d", code, closeCode[sdkNew])
		}
		stats := conn.Stats()
		opened++
		in += float64(stats.MessagesIn) + 1 // the Close frame
		out += float64(stats.MessagesOut) + 1
	}
	own := fmt.Sprintf("upstream=%q", m.sdk.relay.URL())
	return figures{
		"tunnels{" + own + "}":                                      0,
		"tunnels_opened_total{" + own + "}":                         opened,
		"tunnels_closed_total{" + own + `,by="client",code="1000"}`: opened,
		"frames_total{" + own + `,direction="to_relay"}`:            in,
		"frames_total{" + own + `,direction="to_client"}`:           out,
	}
}

// outage stops the relay until the alert fires, and starts it again until the alert is
// resolved.
func (m *monitored) outage(t *testing.T, l *load) {
	t.Helper()
	const alert = `ALERTS{alertname="WatchRTCRelayUnreachable", alertstate="firing"}`
	if len(m.query(t, alert)) > 0 {
		t.Fatal("the alert fires with the relay up")
	}
	l.cut, l.tunnels = len(l.tunnels), nil
	for _, conn := range m.relay.Conns() {
		conn.Abort() // Stop would send Close frames
	}
	m.relay.Stop()
	l.post(t, 3, http.StatusBadGateway)
	began := time.Now()
	for len(m.query(t, alert)) == 0 {
		if time.Since(began) > patience {
			t.Fatal("the alert does not fire")
		}
		if _, err := l.client.tryDial(t, m.url("wss")); err == nil {
			t.Fatal("a WebSocket without a relay")
		}
		l.failed++
		time.Sleep(100 * time.Millisecond) // ten clients a second
	}
	t.Logf("it fires after %v and %d failures", time.Since(began).Round(time.Second), l.failed)
	if up := m.query(t, fmt.Sprintf("%supstream_up{upstream=%q}", metric, m.relay.URL())); len(up) != 1 || up[0] != 0 {
		t.Errorf("upstream_up is %v, want 0", up)
	}

	m.relay = relay.Start(t, m.ca, relay.Config{Addr: m.relay.Addr})
	l.open(t, 1)
	if err := l.talk(soon(t)); err != nil {
		t.Fatal(err)
	}
	for began = time.Now(); len(m.query(t, alert)) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("the alert is not resolved")
		}
	}
	t.Logf("it is resolved after %v", time.Since(began).Round(time.Second))
}

var (
	comparison = regexp.MustCompile(` (>=|<=|==|>|<) `)
	variables  = strings.NewReplacer("$__rate_interval", "10s", "$job", ".*", "$instance", ".*", "$upstream", ".*")
)

// askEverything asks each query of the rules and of the dashboard. Comparisons say yes or
// no here: where there is nothing to compare, there is no data.
func (m *monitored) askEverything(t *testing.T) {
	t.Helper()
	asked := 0
	for _, expr := range append(m.ruleQueries(t), panelQueries(t)...) {
		asked++
		if len(m.query(t, comparison.ReplaceAllString(expr, " $1 bool "))) == 0 {
			t.Errorf("no data: %s", expr)
		}
	}
	t.Logf("%d queries have data", asked)
}

// ruleQueries are those that Prometheus has loaded, and evaluates without an error.
func (m *monitored) ruleQueries(t *testing.T) (all []string) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError string }
		}
	}
	m.ask(t, "rules", &data)
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" {
				t.Errorf("%s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
			all = append(all, rule.Query)
		}
	}
	return all
}

func panelQueries(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(readExample(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			all = append(all, variables.Replace(target.Expr))
		}
	}
	return all
}
