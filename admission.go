package watchrtcproxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/limits"
)

// Values of refuse_with.
const (
	refuseWithStatus   = "status"
	refuseWithGreeting = "greeting"
)

var refusalForms = []string{refuseWithStatus, refuseWithGreeting}

var (
	errOrigin = errors.New("requests of this origin are not taken")
	errKey    = errors.New("requests with this key are not taken")
)

// retryLimit is after how long a client may try again that came when there were too
// many. Tunnels come and go, so a slot may be free at any time.
const retryLimit = 10 * time.Second

// slots are those of the process: its tunnels and the handshakes under way, whatever
// configuration they came with.
var slots limits.Slots

// admission decides whom a handler serves. It does not change once made.
type admission struct {
	origins *origins
	keys    *apiKeys
	limits  limits.Limits
	greet   bool // WebSockets that are refused for good
}

// provisionAdmission needs the rules about forwarded addresses.
func (h *Handler) provisionAdmission() (err error) {
	if h.admission.origins, err = newOrigins(h.Origins); err != nil {
		return err
	}
	if h.admission.keys, err = newAPIKeys(h.APIKeys); err != nil {
		return err
	}
	if err := checkRefuseWith(h.RefuseWith); err != nil {
		return err
	}
	h.admission.greet = h.RefuseWith == refuseWithGreeting
	if h.MaxTunnelsPerClient > 0 && h.rules.ClientForgeable() {
		return fmt.Errorf("max_tunnels_per_client %d: the server's trusted_proxies take the left-most address of X-Forwarded-For"+
			" for the client's, which the client can make up; want trusted_proxies_strict beside them, or trusted_proxies in %s",
			h.MaxTunnelsPerClient, directive)
	}
	if h.MaxTunnels == 0 {
		h.MaxTunnels = limits.DefaultTotal(limits.OpenFiles())
	}
	h.admission.limits = limits.Limits{Total: h.MaxTunnels, PerClient: h.MaxTunnelsPerClient}
	return nil
}

func checkRefuseWith(word string) error {
	switch word {
	case "", refuseWithStatus, refuseWithGreeting:
		return nil
	}
	return fmt.Errorf("refuse_with %q: %swant %s", word, didYouMean(word, refusalForms), strings.Join(refusalForms, " or "))
}

// logAdmission warns of what can only be a mistake.
func (h *Handler) logAdmission(log *zap.Logger) {
	if files := limits.OpenFiles(); files > 0 && h.MaxTunnels > files/2 {
		log.Warn("max_tunnels is more than there is room for: each takes two open files; raise the limit of open files, such as LimitNOFILE of systemd",
			zap.Int("max_tunnels", h.MaxTunnels), zap.Int("open_files", files))
	}
	if h.admission.greet && h.admission.origins == nil && h.admission.keys == nil {
		log.Warn("refuse_with greeting does nothing: there are neither origins nor api_keys that anyone could be refused by")
	}
}

// eachValue gives each word of an option to use, its global placeholders replaced.
func eachValue(option string, words []string, use func(value string) error) error {
	for _, word := range words {
		value, err := caddy.NewReplacer().ReplaceOrErr(word, true, true)
		if err != nil {
			return fmt.Errorf("%s %q: %s; placeholders must be known when the configuration is loaded, such as {env.NAME}", option, word, oneLine(err))
		}
		if err := use(value); err != nil {
			return fmt.Errorf("%s %q: %w", option, word, err)
		}
	}
	return nil
}

// withoutPlaceholders returns the words that can be checked before a configuration is
// loaded.
func withoutPlaceholders(words []string) (plain []string) {
	for _, word := range words {
		if !strings.Contains(word, "{") {
			plain = append(plain, word)
		}
	}
	return plain
}

// originAllowed reports whether requests of t's origin are taken.
func (t *roundTrip) originAllowed() bool { return t.h.admission.origins.allow(t.r, t.h.rules) }

// identify refuses clients for good: those of other origins, and those without a key
// that counts.
func (t *roundTrip) identify() *refusal {
	if !t.originAllowed() {
		return &refusal{status: http.StatusForbidden, err: errOrigin, reason: reasonOrigin, forGood: true}
	}
	if keys := t.h.admission.keys; keys != nil && t.wantsKey() && !keys.allow(t.r.URL.RawQuery) {
		return &refusal{status: http.StatusForbidden, err: errKey, reason: reasonKey, forGood: true}
	}
	return nil
}

// takeSlot takes the slot that a WebSocket has from its handshake to its end.
func (t *roundTrip) takeSlot() *refusal {
	var err error
	t.slot, err = slots.Take(t.h.rules.Client(t.r), t.h.admission.limits)
	switch {
	case errors.Is(err, limits.ErrClient):
		return &refusal{status: http.StatusTooManyRequests, err: err, reason: reasonPerClient, retryAfter: retryLimit}
	case err != nil:
		return &refusal{status: http.StatusServiceUnavailable, err: err, reason: reasonTotal, retryAfter: retryLimit}
	}
	return nil
}

// freeSlot gives back a slot that no tunnel has taken over.
func (t *roundTrip) freeSlot() { t.slot.Free() }

// spread returns a time between d and twice as long, so that those who were refused
// together do not come back together.
func spread(d time.Duration) time.Duration { return d + rand.N(d) }
