package watchrtcproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// An advice is what a configuration's routes do to the SDK's requests and nobody can
// have meant, said when it is loaded. It is a warning: only what is in the routes can be
// seen here, and not what is in front of them.
type advice string

// sdkEndpoints are the paths that the SDK asks for below its proxyUrl, besides the
// WebSocket at the proxyUrl itself.
var sdkEndpoints = []string{"/trace", "/error", "/get-qualityrtc-config"}

// checkPlace looks at the way that requests take to h. It returns an error where no
// request can pass, and logs what is merely odd.
func (h *Handler) checkPlace(ctx caddy.Context, server *caddyhttp.Server) error {
	way, ok := h.way(ctx, server)
	if !ok {
		return nil
	}
	cut, known := way.cut()
	if !known {
		return nil
	}
	if h.PathPrefix != "" && strings.EqualFold(cut, h.PathPrefix) {
		return fmt.Errorf("path_prefix %q: handle_path or uri strip_prefix around it cuts %q off already; want the path in one of the two places",
			h.PathPrefix, cut)
	}
	mount := cut + h.PathPrefix
	if h.PathPrefix != "" && way.taken(h.PathPrefix) {
		return fmt.Errorf("path_prefix %q: another watchrtc_proxy beside it has the same mount, and no request would come to the later one; want each mount once",
			h.PathPrefix)
	}
	log := ctx.Logger()
	if way.covered(mount) {
		log.Info("a login of this site does not cover the mount: watchrtc_proxy comes before basic_auth and forward_auth, "+
			"since the SDK cannot log in; to have it otherwise, put both into a route", zap.String("mount", mount))
	}
	for _, text := range way.advice(mount) {
		log.Warn(string(text), zap.String("mount", mount))
	}
	return nil
}

// way is what a request passes until it comes to a handler, outermost first.
type way []stretch

// stretch is one list of routes on the way.
type stretch struct {
	condition condition // of the route that leads on
	before    []step    // what a request passes first
	after     []step    // what it would come to next
}

// step is a handler beside the way, with the parts of its configuration that matter here.
type step struct {
	name       string // of its module, without the namespace
	conditions []condition
	excludes   bool // who takes this step does not come to what follows

	StripPathPrefix string            `json:"strip_path_prefix"` // rewrite
	StripPathSuffix string            `json:"strip_path_suffix"` // rewrite
	URI             string            `json:"uri"`               // rewrite
	URISubstring    []json.RawMessage `json:"uri_substring"`     // rewrite
	PathRegexp      []json.RawMessage `json:"path_regexp"`       // rewrite
	PassThru        bool              `json:"pass_thru"`         // file_server
	HandleResponse  []json.RawMessage `json:"handle_response"`   // reverse_proxy
	PathPrefix      string            `json:"path_prefix"`       // watchrtc_proxy
}

// condition is what a route asks of a request: one of these, or nothing.
type condition []alternative

type alternative struct {
	paths caddyhttp.MatchPath // nil for any
	more  bool                // asks for something else, too
	host  bool                // that is the host: another site, perhaps
}

// way returns the way to h, which ctx provisions. It is not known for error routes, named
// routes, what other modules than subroutes hold, and subroutes beside each other.
func (h *Handler) way(ctx caddy.Context, server *caddyhttp.Server) (way, bool) {
	if server == nil {
		return nil, false
	}
	modules := ctx.Modules()
	lists := []caddyhttp.RouteList{server.Routes}
	for _, module := range modules[:len(modules)-1] {
		switch module := module.(type) {
		case *caddyhttp.App:
		case *caddyhttp.Subroute:
			lists = append(lists, module.Routes)
		default:
			return nil, false
		}
	}
	var w way
	for i, list := range lists {
		leadsOn := func(s step) bool { return s.name == "subroute" }
		if i == len(lists)-1 {
			leadsOn = func(s step) bool { return s.name == directive && s.PathPrefix == h.PathPrefix }
		}
		s, ok := newStretch(list, leadsOn)
		if !ok {
			return nil, false
		}
		w = append(w, s)
	}
	return w, true
}

// newStretch finds the route that leads on, the first whose handlers have not been loaded
// yet, and the handler in it that does.
func newStretch(routes caddyhttp.RouteList, leadsOn func(step) bool) (stretch, bool) {
	here := slices.IndexFunc(routes, func(r caddyhttp.Route) bool { return len(r.HandlersRaw) > 0 })
	if here < 0 {
		return stretch{}, false
	}
	route := routes[here]
	s := stretch{condition: loadedCondition(route.MatcherSets)}
	for _, earlier := range routes[:here] {
		excludes := earlier.Terminal || earlier.Group != "" && earlier.Group == route.Group
		for _, handler := range earlier.Handlers {
			s.before = append(s.before, loadedSteps(handler, []condition{loadedCondition(earlier.MatcherSets)}, excludes)...)
		}
	}
	var beside []step
	for _, raw := range route.HandlersRaw {
		beside = append(beside, newStep(moduleName(raw), raw, nil))
	}
	at := slices.IndexFunc(beside, leadsOn)
	if at < 0 || beside[at].name == "subroute" && slices.ContainsFunc(beside[at+1:], leadsOn) {
		return stretch{}, false
	}
	s.before, s.after = append(s.before, beside[:at]...), beside[at+1:]
	for _, later := range routes[here+1:] {
		if later.Group != "" && later.Group == route.Group {
			continue // it is for others
		}
		for _, raw := range later.HandlersRaw {
			s.after = append(s.after, newStep(moduleName(raw), raw, []condition{loadedCondition(later.MatcherSets)}))
		}
	}
	return s, true
}

func moduleName(raw json.RawMessage) string {
	var inline struct {
		Handler string `json:"handler"`
	}
	json.Unmarshal(raw, &inline) // what is not valid is for Caddy to tell
	return inline.Handler
}

func newStep(name string, config json.RawMessage, conditions []condition) step {
	var s step
	switch name {
	case "rewrite", "file_server", "reverse_proxy", directive:
		json.Unmarshal(config, &s) // it has been loaded, or will be, so that any error is told
	}
	s.name, s.conditions = name, conditions
	return s
}

// loadedSteps returns the steps of a handler that has been loaded: those inside, where
// it is a subroute.
func loadedSteps(handler caddyhttp.MiddlewareHandler, conditions []condition, excludes bool) []step {
	if subroute, ok := handler.(*caddyhttp.Subroute); ok {
		steps := []step{{name: "subroute", conditions: conditions, excludes: excludes}}
		for _, route := range subroute.Routes {
			inner := append(slices.Clip(conditions), loadedCondition(route.MatcherSets))
			for _, handler := range route.Handlers {
				steps = append(steps, loadedSteps(handler, inner, excludes)...)
			}
		}
		if slices.ContainsFunc(steps, func(s step) bool { return s.name == "rewrite" }) {
			return steps[:1] // what comes after a rewrite sees other paths
		}
		return steps
	}
	module, ok := handler.(caddy.Module)
	if !ok {
		return nil
	}
	config, err := json.Marshal(handler)
	if err != nil {
		config = nil
	}
	s := newStep(module.CaddyModule().ID.Name(), config, conditions)
	s.excludes = excludes
	return []step{s}
}

func loadedCondition(sets caddyhttp.MatcherSets) condition {
	var c condition
	for _, set := range sets {
		var a alternative
		for _, matcher := range set {
			switch matcher := matcher.(type) {
			case *caddyhttp.MatchPath:
				a.paths = *matcher
			case *caddyhttp.MatchHost:
				a.host = true
			default:
				a.more = true
			}
		}
		c = append(c, a)
	}
	return c
}

// takes reports whether a request for path may fulfil a condition, and whether it does
// so whatever else is in it. Another host is another site.
func (c condition) takes(path string) (maybe, surely bool) {
	if len(c) == 0 {
		return true, true
	}
	for _, a := range c {
		if a.host || a.paths != nil && !matches(a.paths, path) {
			continue
		}
		maybe = true
		surely = surely || !a.more
	}
	return maybe, surely
}

// all reports whether each request to some host fulfils a condition.
func (c condition) all() bool {
	return len(c) == 0 || slices.ContainsFunc(c, func(a alternative) bool { return a.paths == nil && !a.more })
}

// matches applies Caddy's own path matcher.
func matches(paths caddyhttp.MatchPath, path string) bool {
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	r := (&http.Request{URL: &url.URL{Path: path}}).WithContext(ctx)
	ok, err := paths.MatchWithError(r)
	return ok && err == nil
}

func (s step) takes(path string) (maybe, surely bool) {
	if s.name == directive {
		if _, ok := cutMount(path, s.PathPrefix); !ok {
			return false, false
		}
	}
	maybe, surely = true, true
	for _, c := range s.conditions {
		m, y := c.takes(path)
		maybe, surely = maybe && m, surely && y
	}
	return maybe, surely
}

// responds reports whether nothing comes after the step.
func (s step) responds() bool {
	switch s.name {
	case "static_response", "error", "acme_server", directive:
		return true
	case "file_server":
		return !s.PassThru
	case "reverse_proxy":
		return len(s.HandleResponse) == 0
	}
	return s.excludes
}

// logsIn reports whether the step is basic_auth or its like, or forward_auth, which is a
// reverse_proxy that goes on where the response says so.
func (s step) logsIn() bool {
	return s.name == "authentication" || s.name == "reverse_proxy" && len(s.HandleResponse) > 0
}

// constantURI reports whether the step rewrites each path to the same one, or to that of
// a file.
func (s step) constantURI() bool {
	uri := strings.NewReplacer("{http.matchers.file.relative}", "", "{http.request.uri.query}", "", "{query}", "").Replace(s.URI)
	path, _, _ := strings.Cut(uri, "?")
	return s.URI != "" && !strings.Contains(path, "{")
}

// cut returns what is cut off a path on the way, which is not known where something
// rewrites it in another manner.
func (w way) cut() (prefix string, known bool) {
	for _, s := range w {
		for _, step := range s.before {
			switch {
			case step.name != "rewrite", step.excludes, step.constantURI():
			case step.URI != "", step.StripPathSuffix != "", len(step.URISubstring) > 0, len(step.PathRegexp) > 0:
				return "", false
			case step.StripPathPrefix != "":
				strip := "/" + strings.Trim(step.StripPathPrefix, "/")
				at, surelyAt := step.takes(strip)
				below, surelyBelow := step.takes(strip + "/trace")
				switch {
				case surelyAt || surelyBelow:
					prefix += strip
				case at || below:
					return "", false // off some requests
				}
			}
		}
	}
	return prefix, true
}

// taken reports whether another handler in the same list takes all that the SDK asks for
// at the mount, so that nothing comes to the later one of the two.
func (w way) taken(mount string) bool {
	last := w[len(w)-1]
	same := func(s step) bool {
		return s.name == directive && strings.EqualFold(s.PathPrefix, mount) && takesMount(s.takes, mount)
	}
	before := last.before
	for i, s := range slices.Backward(before) {
		if s.mayRewrite() {
			before = before[i:]
			break
		}
	}
	after := last.after
	if i := slices.IndexFunc(after, step.mayRewrite); i >= 0 {
		after = after[:i]
	}
	return slices.ContainsFunc(before, same) || takesMount(last.condition.takes, mount) && slices.ContainsFunc(after, same)
}

// takesMount reports whether all that the SDK asks for at a mount is surely taken.
func takesMount(takes func(path string) (maybe, surely bool), mount string) bool {
	return !slices.ContainsFunc(append([]string{""}, sdkEndpoints...), func(endpoint string) bool {
		_, surely := takes(mount + endpoint)
		return !surely
	})
}

// mayRewrite reports whether what comes after the step may see other paths.
func (s step) mayRewrite() bool {
	return s.name == "rewrite" || s.name == "subroute" || s.name == "invoke"
}

// covered reports whether a login comes after the handler that would have come before it.
func (w way) covered(mount string) bool {
	for _, s := range w {
		for _, step := range s.after {
			if maybe, _ := step.takes(mount); maybe && step.logsIn() {
				return true
			}
		}
	}
	return false
}

// advice says what is odd about the way of requests for a mount. What comes first hides
// the rest.
func (w way) advice(mount string) []advice {
	if mount == "" {
		return w.adviceUncut()
	}
	var all []advice
	path, trace := mount, mount+"/trace"
	for _, s := range w {
		for _, step := range s.before {
			if step.name == "rewrite" && !step.constantURI() {
				strip := len("/" + strings.Trim(step.StripPathPrefix, "/"))
				if maybe, _ := step.takes(path); maybe && step.StripPathPrefix != "" && len(path) >= strip {
					path, trace = path[strip:], trace[strip:]
				}
				continue
			}
			if found := step.hinders(path, trace); found != "" {
				all = append(all, found)
			}
		}
		if found := s.condition.half(path, trace); found != "" {
			all = append(all, found)
		}
	}
	return all
}

// hinders says what a step in front of the handler does to requests for path, the
// WebSocket, and trace.
func (s step) hinders(path, trace string) advice {
	at, surelyAt := s.takes(path)
	below, surelyBelow := s.takes(trace)
	switch {
	case !at && !below:
	case s.name == "rewrite":
		return advice(fmt.Sprintf("rewrite or try_files to %q stands before it and changes the path %q; put watchrtc_proxy first", s.URI, path))
	case s.logsIn():
		return "a login (basic_auth, forward_auth) stands before it; the SDK cannot log in, and page code cannot read the 401; " +
			"put watchrtc_proxy first, and see origins for who may use it"
	case s.name == "request_body":
		return "request_body stands before it, and page code cannot read its 413; use max_body_size"
	case s.responds() && surelyAt:
		return advice(fmt.Sprintf("no request for %q comes to it: %s stands before it and takes it; put watchrtc_proxy first", path, s.name))
	case s.responds() && surelyBelow:
		return advice(fmt.Sprintf("no request for %q comes to it: %s stands before it and takes it; put watchrtc_proxy first", trace, s.name))
	}
	return ""
}

// half says which of the SDK's requests a condition does not let pass.
func (c condition) half(path, trace string) advice {
	at, below, asks := false, false, false
	for _, a := range c {
		if a.paths != nil {
			asks = true
			at = at || matches(a.paths, path)
			below = below || matches(a.paths, trace)
		}
	}
	const want = "want %q, or watchrtc_proxy with the mount after it and no path around it"
	switch {
	case !asks, at && below:
		return ""
	case !at && !below:
		return advice(fmt.Sprintf("no request comes to it: the path matcher around it takes neither %q nor %q; "+want, path, trace, path+"*"))
	case at:
		return advice(fmt.Sprintf("the path matcher around it takes the WebSocket at %q, and not %q, which the SDK asks for too; "+want, path, trace, path+"*"))
	}
	return advice(fmt.Sprintf("the path matcher around it takes %q, and not the WebSocket at %q; "+want, trace, path, path+"*"))
}

// adviceUncut is advice for a handler that nothing cuts a path off for.
func (w way) adviceUncut() []advice {
	var all []advice
	for _, s := range w {
		for _, step := range s.before {
			if step.name == "rewrite" && step.constantURI() {
				if found := step.hinders("/", "/trace"); found != "" {
					all = append(all, found)
				}
			}
		}
	}
	for _, s := range slices.Backward(w) {
		if path := s.condition.uncut(); path != "" {
			return append(all, advice(fmt.Sprintf(
				"the path %q is matched and not cut off: the relay is asked for %q instead of \"/trace\"; write the mount after the directive: watchrtc_proxy %s",
				path, path+"/trace", path)))
		}
	}
	return append(all, w.takesAll()...)
}

// uncut returns a path that a condition asks for, below which the SDK's endpoints would
// be, or nothing.
func (c condition) uncut() string {
	for _, a := range c {
		for _, pattern := range a.paths {
			path := strings.TrimRight(strings.TrimSuffix(pattern, "*"), "/")
			if path != "" && !slices.Contains(sdkEndpoints, path) {
				return path
			}
		}
	}
	return ""
}

// takesAll says what is never reached since a handler without a mount takes everything.
func (w way) takesAll() []advice {
	for _, s := range slices.Backward(w) {
		if !s.condition.all() {
			return nil
		}
		for _, step := range s.after {
			if step.responds() || step.name == "subroute" {
				return []advice{advice(fmt.Sprintf(
					"it has no mount and takes every request, so that nothing comes to %s after it; write a mount: watchrtc_proxy /websocket", step.name))}
			}
		}
	}
	return nil
}
