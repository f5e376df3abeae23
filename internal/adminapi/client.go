package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/terminal"
)

// PathMetrics is Caddy's own endpoint, in the text format of Prometheus.
const PathMetrics = "/metrics"

// ErrNotFound is in the error of a request for a path that is not there.
var ErrNotFound = errors.New("not found")

// maxResponse bounds what a peer that is no admin API can make a Client hold, in bytes.
// A page of MaxLimit tunnels has some 400 kB.
const maxResponse = 16 << 20

// maxCommas bounds how many values a response can have: a list of empty objects takes a
// hundred times its size in memory. A page of MaxLimit tunnels has some 12,000, and clients
// can put 128 more into each session ID.
const maxCommas = 256 << 10

// maxText bounds, in runes, what is repeated of a server's words. Caddy's errors are shorter.
const maxText = 300

// Client asks an admin API. Its errors are for people: they say what is wrong at which
// address, and what to look for.
type Client struct {
	shown  string // the address, for people
	origin string
	http   http.Client
}

// NewClient asks the admin API that listens on network and address, as net.Dial takes
// them. host is what it knows itself by (the field Host). timeout bounds each request.
func NewClient(network, address, host string, timeout time.Duration) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return &Client{
		shown:  address,
		origin: "http://" + host,
		http: http.Client{
			Transport: &http.Transport{DialContext: dial},
			Timeout:   timeout,
			// No admin API redirects; a web server may.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for PathStatus.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.getJSON(ctx, PathStatus, &s)
}

// Tunnels asks for the first tunnels in the order of sort, limit at most.
func (c *Client) Tunnels(ctx context.Context, sort string, limit int) (t Tunnels, err error) {
	query := url.Values{"sort": {sort}, "limit": {strconv.Itoa(limit)}}
	return t, c.getJSON(ctx, PathTunnels+"?"+query.Encode(), &t)
}

// Metrics asks for PathMetrics.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) { return c.get(ctx, PathMetrics) }

func (c *Client) getJSON(ctx context.Context, target string, into any) error {
	body, err := c.get(ctx, target)
	if err != nil {
		return err
	}
	if bytes.Count(body, []byte(",")) > maxCommas {
		return fmt.Errorf("%s: the response to %s has more values than any of an admin API", c.shown, pathOf(target))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("what listens at %s is not Caddy's admin API: its response is not the JSON of %s", c.shown, pathOf(target))
	}
	return nil
}

func (c *Client) get(ctx context.Context, target string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.origin+target, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.explain(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse+1))
	switch {
	case err != nil:
		return nil, c.explain(err)
	case response.StatusCode != http.StatusOK:
		return nil, c.refused(pathOf(target), request.URL.Host, response.StatusCode, body)
	case len(body) > maxResponse:
		return nil, fmt.Errorf("%s: the response to %s is larger than %d MiB", c.shown, pathOf(target), maxResponse>>20)
	}
	return body, nil
}

func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

// explain says in words why there is no response.
func (c *Client) explain(err error) error {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL, whose host may be made up
	}
	var timeout net.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens at %s: is Caddy running, and its admin API on and there?", c.shown)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no socket %s: is Caddy running, and its admin API on and there?", c.shown)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to connect to %s: use the user that Caddy runs as", c.shown)
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("%s: there is no host %q", c.shown, dns.Name)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s does not respond within %v", c.shown, c.http.Timeout)
	}
	return fmt.Errorf("%s: %s", c.shown, terminal.Printable(err.Error(), maxText)) // net/http may quote what came
}

// refused says in words what a status means. host is what was asked for.
func (c *Client) refused(path, host string, status int, body []byte) error {
	switch status {
	case http.StatusNotFound:
		return fmt.Errorf("%s has no %s: is it Caddy's admin API, and has that Caddy watchrtc_proxy, of this version? (%w)", c.shown, path, ErrNotFound)
	case http.StatusForbidden:
		return fmt.Errorf("%s refuses requests for %q (%s): use an address or port forwarding under which it knows itself, or its option origins",
			c.shown, host, message(body))
	}
	return fmt.Errorf("%s responds to %s with status %d (%s)", c.shown, path, status, message(body))
}

// message is what an error of Caddy's says, or the beginning of what any other says.
func message(body []byte) string {
	var response struct{ Error string }
	if json.Unmarshal(body, &response) == nil && response.Error != "" {
		return terminal.Printable(response.Error, maxText)
	}
	const enough = 80
	body = bytes.TrimSpace(body)
	if len(body) > enough {
		body = body[:enough]
	}
	return strconv.QuoteToASCII(string(body))
}
