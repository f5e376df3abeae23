// Package adminapi has the JSON of the admin API, for the plugin, which speaks it, and
// for whoever asks it.
package adminapi

import "time"

// The endpoints, below Caddy's admin address.
const (
	PathStatus  = "/watchrtc_proxy/status"
	PathTunnels = "/watchrtc_proxy/tunnels"
	PathDrain   = "/watchrtc_proxy/drain" // a drain's own is below it, by its ID
)

// Status is the response to GET PathStatus.
type Status struct {
	Version       string     `json:"version"` // of the module
	UptimeSeconds int64      `json:"uptime_seconds"`
	Engine        string     `json:"engine"` // event_loops or goroutines
	Stopping      bool       `json:"stopping"`
	Tunnels       int        `json:"tunnels"`
	Handshakes    int64      `json:"handshakes"` // under way
	Upstreams     []Upstream `json:"upstreams"`
	Drains        []Drain    `json:"drains"`
}

// Upstream is one that is configured, or was since the process began.
type Upstream struct {
	Name                   string   `json:"name"`
	Configured             bool     `json:"configured"`
	Up                     bool     `json:"up"`
	Draining               bool     `json:"draining"` // has left the configuration, or the process stops
	Tunnels                int      `json:"tunnels"`
	OpenedTotal            uint64   `json:"opened_total"`
	ClosedTotal            uint64   `json:"closed_total"`
	HandshakeFailuresTotal uint64   `json:"handshake_failures_total"`
	LastFailure            *Failure `json:"last_failure"`
}

// Failure is how a relay failed.
type Failure struct {
	Time  time.Time `json:"time"`
	Stage string    `json:"stage"`
	Error string    `json:"error"`
}

// Drain is one that is under way.
type Drain struct {
	ID       uint64    `json:"id"`       // 0 for one by a reload or a stop, which cannot be stopped
	Upstream string    `json:"upstream"` // empty if it is for those of all
	Total    int       `json:"total"`    // tunnels
	Left     int       `json:"left"`     // of them are open
	Ends     time.Time `json:"ends"`     // when the last is told to go
}

// Tunnels is the response to GET PathTunnels.
type Tunnels struct {
	Tunnels []Tunnel `json:"tunnels"`
	Next    *uint64  `json:"next"` // the parameter before of the next page; null if there is none
}

// Tunnel is one that is open.
type Tunnel struct {
	ID             uint64    `json:"id"`
	Upstream       string    `json:"upstream"`
	ClientIP       string    `json:"client_ip"`
	SessionID      string    `json:"session_id"`
	Opened         time.Time `json:"opened"`
	IdleSeconds    float64   `json:"idle_seconds"`
	BytesToRelay   uint64    `json:"bytes_to_relay"`
	BytesToClient  uint64    `json:"bytes_to_client"`
	FramesToRelay  uint64    `json:"frames_to_relay"`
	FramesToClient uint64    `json:"frames_to_client"`
	Protocol       string    `json:"protocol"` // the client's: HTTP/1.1, HTTP/2 or HTTP/3
}

// The values of the parameter sort.
const (
	SortNewest = "newest"
	SortBytes  = "bytes" // most first
	SortIdle   = "idle"  // longest first
)

// The parameter limit.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// DrainRequest is the body of POST PathDrain. It chooses the tunnels that all its
// fields choose, and must have one of them besides Window.
type DrainRequest struct {
	All       bool     `json:"all,omitempty"`
	Upstream  string   `json:"upstream,omitempty"`
	ClientIP  string   `json:"client_ip,omitempty"` // an address or a range
	SessionID string   `json:"session_id,omitempty"`
	Count     *int     `json:"count,omitempty"`    // the oldest of those
	Fraction  *float64 `json:"fraction,omitempty"` // 0 to 1: the oldest of those, rounded up
	Window    string   `json:"window,omitempty"`   // a duration up to MaxWindow; DefaultWindow if empty
}

// The field window.
const (
	DefaultWindow = 20 * time.Second
	MaxWindow     = 24 * time.Hour
)

// DrainStarted is the response to POST PathDrain.
type DrainStarted struct {
	ID     uint64 `json:"id"`
	Total  int    `json:"total"`
	Window string `json:"window"`
}
