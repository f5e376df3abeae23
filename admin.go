package watchrtcproxy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/adminapi"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/stats"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/tunnel"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI has Caddy's admin API tell of tunnels and relays, and close tunnels.
// docs/admin.md describes it.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.watchrtc_proxy", New: func() caddy.Module { return new(adminAPI) }}
}

// Routes returns the endpoints.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminapi.PathStatus, Handler: endpoint(http.MethodGet, getStatus)},
		{Pattern: adminapi.PathTunnels, Handler: endpoint(http.MethodGet, getTunnels)},
		{Pattern: adminapi.PathDrain, Handler: endpoint(http.MethodPost, postDrain)},
		{Pattern: adminapi.PathDrain + "/", Handler: endpoint(http.MethodDelete, deleteDrain)},
	}
}

// endpoint refuses other methods, and responds with what serve returns, or with 204 if
// that is nil. HEAD is as good as GET (RFC 9110, section 9.3.2).
func endpoint(method string, serve func(*http.Request) (status int, response any, err error)) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != method && (r.Method != http.MethodHead || method != http.MethodGet) {
			w.Header().Set("Allow", method)
			return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method %q: want %s", r.Method, method)}
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxAdminBody)
		status, response, err := serve(r)
		if err != nil {
			return err
		}
		if response == nil {
			w.WriteHeader(status)
			return nil
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		return json.NewEncoder(w).Encode(response)
	}
}

// maxAdminBody is far more than a DrainRequest can be.
const maxAdminBody = 64 << 10

// badRequest names the parameter that is wrong.
func badRequest(parameter string, why error) error {
	return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("%s: %w", parameter, why)}
}

var processBegun = time.Now()

func getStatus(r *http.Request) (int, any, error) {
	if _, err := parameters(r); err != nil {
		return 0, nil, err
	}
	engine, _ := tunnel.Engine()
	status := adminapi.Status{
		Version: moduleVersion(), UptimeSeconds: int64(time.Since(processBegun) / time.Second),
		Engine: engine, Stopping: tunnels.Stopping(),
		Upstreams: []adminapi.Upstream{}, Drains: []adminapi.Drain{},
	}
	states := upstreamStates()
	for _, u := range totals.Upstreams() {
		s := states[u.Name]
		status.Tunnels += s.Tunnels
		status.Handshakes += u.HandshakesInFlight()
		status.Upstreams = append(status.Upstreams, upstreamStatus(u, s))
		if d := s.Drain; d != nil {
			status.Drains = append(status.Drains, adminapi.Drain{Upstream: u.Name, Total: d.Total, Left: d.Left, Ends: d.Ends})
		}
	}
	status.Drains = append(status.Drains, drains.list()...)
	return http.StatusOK, status, nil
}

func upstreamStatus(u *stats.Upstream, s tunnel.UpstreamState) adminapi.Upstream {
	status := adminapi.Upstream{
		Name: u.Name, Configured: s.Configured, Up: u.Up(), Draining: s.Drain != nil, Tunnels: s.Tunnels,
		OpenedTotal: u.TunnelsOpened(), ClosedTotal: stats.Sum(u.TunnelsClosed()),
		HandshakeFailuresTotal: stats.Sum(u.HandshakeFailures()),
	}
	if f := u.LastFailure(); f != nil {
		status.LastFailure = &adminapi.Failure{Time: f.Time, Stage: f.Stage, Error: f.Text}
	}
	return status
}

// moduleVersion is what the binary was built with.
func moduleVersion() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	own, _, _ := strings.Cut(reflect.TypeFor[adminapi.Status]().PkgPath(), "/internal/")
	for _, m := range append(build.Deps, &build.Main) {
		if m.Path == own {
			if m.Replace != nil {
				m = m.Replace
			}
			return m.Version
		}
	}
	return "unknown"
}

func getTunnels(r *http.Request) (int, any, error) {
	q, err := parseTunnelsQuery(r)
	if err != nil {
		return 0, nil, err
	}
	page, more := q.page(tunnels.Tunnels())
	response := adminapi.Tunnels{Tunnels: make([]adminapi.Tunnel, 0, len(page))}
	for _, t := range page {
		response.Tunnels = append(response.Tunnels, tunnelStatus(t.State()))
	}
	if more && q.sort == adminapi.SortNewest {
		response.Next = new(page[len(page)-1].ID())
	}
	return http.StatusOK, response, nil
}

func tunnelStatus(s tunnel.State) adminapi.Tunnel {
	return adminapi.Tunnel{
		ID: s.ID, Upstream: s.Upstream, ClientIP: s.ClientIP, SessionID: s.SessionID,
		Opened: s.Opened, IdleSeconds: s.Idle.Seconds(),
		BytesToRelay: s.BytesToRelay, BytesToClient: s.BytesToClient,
		FramesToRelay: s.FramesToRelay, FramesToClient: s.FramesToClient,
		Protocol: protocol(s.HTTP),
	}
}

// tunnelsQuery is which tunnels are asked for.
type tunnelsQuery struct {
	filter tunnelFilter
	limit  int
	before uint64 // only those with a smaller ID; 0 for all
	sort   string
}

func parseTunnelsQuery(r *http.Request) (q tunnelsQuery, err error) {
	values, err := parameters(r, "limit", "before", "sort", "upstream", "client_ip", "session_id")
	if err != nil {
		return q, err
	}
	q.limit, q.sort = adminapi.DefaultLimit, adminapi.SortNewest
	if s, ok := values["limit"]; ok {
		if q.limit, err = strconv.Atoi(s); err != nil || q.limit < 1 || q.limit > adminapi.MaxLimit {
			return q, badRequest("limit", fmt.Errorf("%q: want a number from 1 to %d", s, adminapi.MaxLimit))
		}
	}
	if s, ok := values["sort"]; ok {
		orders := []string{adminapi.SortNewest, adminapi.SortBytes, adminapi.SortIdle}
		if q.sort = s; !slices.Contains(orders, s) {
			return q, badRequest("sort", fmt.Errorf("%q: want one of %s", s, strings.Join(orders, ", ")))
		}
	}
	if s, ok := values["before"]; ok {
		if q.before, err = strconv.ParseUint(s, 10, 64); err != nil || q.before == 0 {
			return q, badRequest("before", fmt.Errorf("%q: want the ID of a tunnel", s))
		}
		if q.sort != adminapi.SortNewest {
			return q, badRequest("before", fmt.Errorf("%q: goes with sort=%s only", s, adminapi.SortNewest))
		}
	}
	q.filter, err = parseTunnelFilter(values["upstream"], values["client_ip"], values["session_id"])
	return q, err
}

// parameters returns those of the query, each of which must be one of known and comes
// once.
func parameters(r *http.Request, known ...string) (map[string]string, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query", err)
	}
	values := make(map[string]string, len(query))
	for name, all := range query {
		switch {
		case !slices.Contains(known, name):
			return nil, badRequest(fmt.Sprintf("%q", name), unknownParameter(known))
		case len(all) > 1:
			return nil, badRequest(name, fmt.Errorf("comes %d times", len(all)))
		}
		values[name] = all[0]
	}
	return values, nil
}

func unknownParameter(known []string) error {
	if len(known) == 0 {
		return errors.New("there are no parameters here")
	}
	return fmt.Errorf("no such parameter; want one of %s", strings.Join(known, ", "))
}

// page returns the first of those of all that match, in order, and whether there are
// more. Nothing but their keys is moved to sort them: there may be very many.
func (q tunnelsQuery) page(all []*tunnel.Tunnel) (page []*tunnel.Tunnel, more bool) {
	type ranked struct {
		rank uint64
		*tunnel.Tunnel
	}
	var matching []ranked
	for _, t := range all {
		if (q.before == 0 || t.ID() < q.before) && q.filter.matches(t) {
			matching = append(matching, ranked{q.rank(t), t})
		}
	}
	slices.SortFunc(matching, func(a, b ranked) int {
		if a.rank != b.rank {
			return cmp.Compare(b.rank, a.rank)
		}
		return cmp.Compare(b.ID(), a.ID())
	})
	for _, t := range matching[:min(q.limit, len(matching))] {
		page = append(page, t.Tunnel)
	}
	return page, len(matching) > q.limit
}

// rank is what tunnels are sorted by, the greatest first.
func (q tunnelsQuery) rank(t *tunnel.Tunnel) uint64 {
	switch q.sort {
	case adminapi.SortBytes:
		s := t.State()
		return s.BytesToRelay + s.BytesToClient
	case adminapi.SortIdle:
		return uint64(max(t.State().Idle, 0))
	}
	return t.ID()
}

// tunnelFilter chooses tunnels. Its zero value chooses all.
type tunnelFilter struct {
	upstream  string
	clientIP  netip.Prefix
	sessionID string
}

func parseTunnelFilter(upstream, clientIP, sessionID string) (f tunnelFilter, err error) {
	f.sessionID = sessionID
	if upstream != "" {
		parsed, err := parseUpstream(upstream)
		if err != nil {
			return f, badRequest("upstream", err)
		}
		f.upstream = parsed.name
	}
	if clientIP != "" {
		if f.clientIP, err = parseRange(clientIP); err != nil {
			return f, badRequest("client_ip", fmt.Errorf("%q: want an address such as 192.0.2.1 or a range such as 192.0.2.0/24", clientIP))
		}
	}
	return f, nil
}

func parseRange(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		prefix, err := netip.ParsePrefix(s)
		if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
		}
		return prefix.Masked(), err
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// matches compares client addresses as they are shown.
func (f tunnelFilter) matches(t *tunnel.Tunnel) bool {
	if f.upstream != "" && t.Upstream != f.upstream || f.sessionID != "" && t.SessionID != f.sessionID {
		return false
	}
	if !f.clientIP.IsValid() {
		return true
	}
	addr, err := netip.ParseAddr(t.ClientIP)
	return err == nil && f.clientIP.Contains(addr)
}

// choose returns the tunnels that all of the filter's fields choose, oldest first.
func (f tunnelFilter) choose() []*tunnel.Tunnel {
	chosen := slices.DeleteFunc(tunnels.Tunnels(), func(t *tunnel.Tunnel) bool { return !f.matches(t) })
	slices.SortFunc(chosen, func(a, b *tunnel.Tunnel) int { return cmp.Compare(a.ID(), b.ID()) })
	return chosen
}

// decode reads a JSON object of known fields.
func decode(body io.Reader, into any) error {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil {
		// More reports nothing of a bracket.
		if _, end := decoder.Token(); end != io.EOF {
			err = errors.New("there is more after the object")
		}
	}
	if err != nil {
		return badRequest("the body", err)
	}
	return nil
}

// Interface guards
var _ caddy.AdminRouter = adminAPI{}
