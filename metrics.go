package watchrtcproxy

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/stats"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

// registerMetrics has the metrics of ctx's configuration include those of this module.
// Each configuration has a registry of its own, and any number of handlers; maxTunnels
// is one handler's.
func registerMetrics(ctx caddy.Context, maxTunnels int) error {
	c := new(collector)
	err := ctx.GetMetricsRegistry().Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		c, err = already.ExistingCollector.(*collector), nil
	}
	if err == nil && (c.maxTunnels == 0 || maxTunnels < c.maxTunnels) {
		c.maxTunnels = maxTunnels
	}
	return err
}

// collector reads the process's totals, and what living tunnels count by themselves,
// when it is asked. Each registry shows the same, but for what is configured.
type collector struct {
	// maxTunnels is the smallest of the configuration's handlers: from there on
	// clients are refused. It is set while the configuration is loaded.
	maxTunnels int
}

var descriptions []*prometheus.Desc // of all metrics

func describe(name, help string, labels ...string) *prometheus.Desc {
	desc := prometheus.NewDesc(prometheus.BuildFQName("caddy", "watchrtc_proxy", name), help, labels, nil)
	descriptions = append(descriptions, desc)
	return desc
}

var (
	descTunnels = describe("tunnels",
		"WebSockets that are open.", "upstream")
	descHandshakesInFlight = describe("handshakes_in_flight",
		"Handshakes of WebSockets for which the relay is being asked.", "upstream")
	descTunnelsOpened = describe("tunnels_opened_total",
		"WebSockets that have been opened.", "upstream")
	descTunnelsClosed = describe("tunnels_closed_total",
		"WebSockets that have ended, by who closed them and with which code.", "upstream", "by", "code")
	descTunnelDuration = describe("tunnel_duration_seconds",
		"How long WebSockets lasted that have ended.", "upstream")
	descHandshake = describe("handshake_seconds",
		"How long handshakes took that opened a WebSocket.", "upstream")
	descHandshakeFailures = describe("handshake_failures_total",
		"Handshakes of WebSockets that have failed, by how far they got.", "upstream", "stage")
	descBytes = describe("bytes_total",
		"Bytes that WebSockets have carried, open ones included.", "upstream", "direction")
	descFrames = describe("frames_total",
		"Frames that WebSockets have carried, open ones included.", "upstream", "direction")
	descFallbackRequests = describe("fallback_requests_total",
		"HTTPS requests besides WebSockets, by what they are for and the class of their response.", "upstream", "endpoint", "code")
	descFallback = describe("fallback_seconds",
		"How long the relay took to respond to them.", "upstream")
	descRejected = describe("rejected_total",
		"Requests that were refused here, by why.", "reason")
	descMaxTunnels = describe("max_tunnels",
		"How many WebSockets the process may hold before handshakes are refused: the smallest max_tunnels of the configuration.")
	descUp = describe("upstream_up",
		"Whether the relay is up: 0 from when it cannot be reached, or does not respond in time, until it responds.", "upstream")
	descDraining = describe("draining",
		"Whether the WebSockets of the upstream are being closed because it has left the configuration, or the process stops.", "upstream")
	descCertificate = describe("upstream_certificate_not_after_seconds",
		"When the relay's certificate expires, in Unix time.", "upstream")
)

// Describe names each metric: Caddy's registries insist.
func (*collector) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range descriptions {
		to <- desc
	}
}

// Collect reads them.
func (own *collector) Collect(to chan<- prometheus.Metric) {
	c := metrics{to: to}
	c.gauge(descMaxTunnels, float64(own.maxTunnels))
	states := upstreamStates()
	for _, u := range totals.Upstreams() {
		s := states[u.Name]
		inUse := s.Configured || s.Tunnels > 0
		metrics{to: to, onlyCounted: !inUse}.counters(u, s.Traffic)
		if inUse {
			c.gauges(u, s)
		}
	}
	for reason, n := range totals.Rejected() {
		c.counter(descRejected, n, reason)
	}
}

// metrics is where Collect puts them.
type metrics struct {
	to          chan<- prometheus.Metric
	onlyCounted bool // leaves out counters that are 0
}

// counters are there as long as the process; those that are 0, while the upstream is
// in use.
func (c metrics) counters(u *stats.Upstream, carried tunnel.Traffic) {
	c.counter(descTunnelsOpened, u.TunnelsOpened(), u.Name)
	for closed, n := range u.TunnelsClosed() {
		c.counter(descTunnelsClosed, n, u.Name, closed.By, closed.Code)
	}
	for stage, n := range u.HandshakeFailures() {
		c.counter(descHandshakeFailures, n, u.Name, stage)
	}
	for request, n := range u.Requests() {
		c.counter(descFallbackRequests, n, u.Name, request.Endpoint, request.Class)
	}
	c.histogram(descHandshake, u.HandshakeTimes(), u.Name)
	c.histogram(descTunnelDuration, u.Lifetimes(), u.Name)
	c.histogram(descFallback, u.ResponseTimes(), u.Name)
	const toRelay, toClient = "to_relay", "to_client"
	c.counter(descBytes, carried.BytesToRelay, u.Name, toRelay)
	c.counter(descBytes, carried.BytesToClient, u.Name, toClient)
	c.counter(descFrames, carried.FramesToRelay, u.Name, toRelay)
	c.counter(descFrames, carried.FramesToClient, u.Name, toClient)
}

// gauges are there while the upstream is configured or has tunnels.
func (c metrics) gauges(u *stats.Upstream, s tunnel.UpstreamState) {
	c.gauge(descTunnels, float64(s.Tunnels), u.Name)
	c.gauge(descHandshakesInFlight, float64(u.HandshakesInFlight()), u.Name)
	c.gauge(descUp, oneIf(u.Up()), u.Name)
	c.gauge(descDraining, oneIf(s.Drain != nil), u.Name)
	if end := u.CertificateEnd(); end != 0 {
		c.gauge(descCertificate, float64(end), u.Name)
	}
}

func (c metrics) counter(desc *prometheus.Desc, n uint64, labels ...string) {
	if n == 0 && c.onlyCounted {
		return
	}
	c.to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
}

func (c metrics) gauge(desc *prometheus.Desc, value float64, labels ...string) {
	c.to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func (c metrics) histogram(desc *prometheus.Desc, d stats.Distribution, labels ...string) {
	if d.Count == 0 && c.onlyCounted {
		return
	}
	c.to <- prometheus.MustNewConstHistogram(desc, d.Count, d.Sum, d.Buckets, labels...)
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
