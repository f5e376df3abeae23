package check

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/handshake"
)

// subprotocol is the one that the SDK asks for. A browser closes a WebSocket whose
// server does not choose it.
const subprotocol = "2.0"

// maxMounts is how many other paths are tried where there is no WebSocket.
const maxMounts = 4

// webSocket opens a WebSocket as the SDK does.
func (r *run) webSocket(ctx context.Context) result {
	x, err := r.shakeHands(ctx, r.conn, r.endpoint(""))
	if err != nil {
		r.close()
		return r.unopened(ctx, err)
	}
	if x.StatusCode != http.StatusSwitchingProtocols {
		r.close()
		if bad, ok := r.refused(x); ok {
			return bad
		}
		return r.misplaced(ctx, x)
	}
	if bad := r.accepted(x); bad != nil {
		r.close()
		return *bad
	}
	r.conn, r.open = nil, x
	result := passed("101, subprotocol " + subprotocol)
	if skew := x.skew(); skew != 0 {
		result.hint = "compare this computer's clock with the time: " + skewText(skew)
	}
	return result
}

// unopened names the mistake where there is no response to the handshake.
func (r *run) unopened(ctx context.Context, err error) result {
	if r.URL.Scheme == "wss" && isBroken(err) {
		if _, err := r.plainGet(ctx); err != nil && isBroken(err) && r.takesHTTP2(ctx) {
			return onlyHTTP2("it ends connections of HTTP/1.1")
		}
	}
	return r.unanswered("the handshake", err)
}

// shakeHands sends the handshake to u. The response may be any.
func (r *run) shakeHands(ctx context.Context, conn net.Conn, u *url.URL) (*exchange, error) {
	header := http.Header{"Sec-Websocket-Version": {handshake.Version}, "Sec-Websocket-Protocol": {subprotocol}}
	r.setOrigin(header)
	handshake.Prepare(header)
	handshake.Spell(header)
	u.RawQuery = r.query()
	return r.exchange(ctx, conn, &http.Request{Method: http.MethodGet, URL: u, Header: header})
}

func (r *run) setOrigin(header http.Header) {
	if r.Origin != "" {
		header.Set("Origin", r.Origin)
	}
}

// accepted returns the mistake in a 101, or nil.
func (r *run) accepted(x *exchange) *result {
	var bad result
	switch err := handshake.CheckResponse(x.Request.Header, x.Response); {
	case err != nil:
		bad = failed("the 101 is not valid", err.Error(), "see what stands in front of the proxy: it changes the fields of the handshake")
	case len(x.Header["Sec-Websocket-Extensions"]) > 0:
		bad = failed("the 101 is not valid", "it has an extension that nobody asked for", "see what stands in front of the proxy")
	case x.Header.Get("Sec-Websocket-Protocol") != subprotocol:
		bad = failed("the subprotocol is missing", "the 101 lacks Sec-WebSocket-Protocol: "+subprotocol+", so browsers close the WebSocket",
			"see whether something in front of the proxy takes the field out, and whether the upstream is a watchRTC relay")
	default:
		return nil
	}
	return &bad
}

// misplaced tells a wrong mount from an upgrade that does not arrive, and both from a
// server that has neither.
func (r *run) misplaced(ctx context.Context, x *exchange) result {
	if mount, ok := r.findMount(ctx); ok {
		mistake := "the mount is wrong"
		if strings.Trim(r.URL.Path, "/") == "" {
			mistake = "the mount is forgotten"
		}
		right := r.URL.Scheme + "://" + r.URL.Host + mount
		return failed(mistake, fmt.Sprintf("status %d here, but a WebSocket at %s", x.StatusCode, cmp.Or(mount, "/")),
			"use "+right+", in the SDK's proxyUrl too").andFinal()
	}
	switch {
	case x.relayed() && r.sameWithoutUpgrade(ctx, x):
		return failed("the WebSocket upgrade is stripped", r.by(x)+", also without it",
			"have what stands in front of the proxy pass on Upgrade and Connection; nginx drops them by default")
	case x.relayed():
		return failed("the relay refuses the handshake", r.by(x), "see that the upstream and its base path are right, and the key")
	case x.StatusCode == http.StatusBadRequest || x.StatusCode == http.StatusUpgradeRequired:
		return failed("the handshake does not arrive whole", r.by(x),
			"have what stands in front of the proxy pass on Upgrade, Connection and Sec-WebSocket-*")
	}
	return failed("this is a plain web server", fmt.Sprintf("status %d instead of 101, nothing of watchrtc_proxy", x.StatusCode),
		"put `watchrtc_proxy "+r.mountOr("/websocket")+"` into the site, or correct the URL").andFinal()
}

func (r *run) mountOr(fallback string) string {
	if path := strings.TrimRight(r.URL.EscapedPath(), "/"); path != "" {
		return path
	}
	return fallback
}

// findMount looks for a WebSocket at other paths: the usual mount, none, and what
// comes before the end of the URL's.
func (r *run) findMount(ctx context.Context) (mount string, ok bool) {
	here := strings.TrimRight(r.URL.EscapedPath(), "/")
	mounts := []string{"/websocket", ""}
	for path := here; path != ""; {
		path = path[:strings.LastIndexByte(path, '/')]
		mounts = append(mounts, path)
	}
	tried := []string{here}
	for _, mount := range mounts {
		if slices.Contains(tried, mount) || len(tried) > maxMounts {
			continue
		}
		tried = append(tried, mount)
		u := r.endpoint("")
		u.Path, u.RawPath = mount, "" // those that are parts of the URL's path are escaped
		if plain, err := url.PathUnescape(mount); err == nil {
			u.Path, u.RawPath = plain, mount
		}
		if status, err := r.probe(ctx, func(conn net.Conn) (*exchange, error) { return r.shakeHands(ctx, conn, u) }); err == nil && status == http.StatusSwitchingProtocols {
			return mount, true
		}
	}
	return "", false
}

// sameWithoutUpgrade reports whether a request that does not ask for a WebSocket gets
// the same response.
func (r *run) sameWithoutUpgrade(ctx context.Context, x *exchange) bool {
	status, err := r.plainGet(ctx)
	return err == nil && status == x.StatusCode
}

// plainGet sends the handshake's request without what makes it a handshake.
func (r *run) plainGet(ctx context.Context) (status int, err error) {
	u := r.endpoint("")
	u.RawQuery = r.query()
	header := make(http.Header)
	r.setOrigin(header)
	return r.probe(ctx, func(conn net.Conn) (*exchange, error) {
		return r.exchange(ctx, conn, &http.Request{Method: http.MethodGet, URL: u, Header: header})
	})
}

// probe sends one request on a connection of its own and returns the status.
func (r *run) probe(ctx context.Context, send func(net.Conn) (*exchange, error)) (status int, err error) {
	conn, err := r.redial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	x, err := send(conn)
	if err != nil {
		return 0, err
	}
	return x.StatusCode, nil
}
