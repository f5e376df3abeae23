package watchrtcproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"
)

// keyFilter is how the logs of `caddy watchrtc-proxy` are encoded: without the SDK's
// keys, which are in its URLs.
const keyFilter = `{"format": "filter", "fields": {"request>uri": {"filter": "query", "actions": [
	{"type": "replace", "parameter": "apiKey", "value": "REDACTED"},
	{"type": "replace", "parameter": "token", "value": "REDACTED"}
]}}}`

// proxyOptions are the flags of `caddy watchrtc-proxy`.
type proxyOptions struct {
	from                            string
	to                              []string
	path                            string
	internalCerts, accessLog, debug bool
}

func runProxy(flags caddycmd.Flags) (int, error) {
	caddy.TrapSignals()
	to, err := flags.GetStringArray("to")
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	config, url, err := proxyOptions{
		from: flags.String("from"), to: to, path: flags.String("path"),
		internalCerts: flags.Bool("internal-certs"), accessLog: flags.Bool("access-log"), debug: flags.Bool("debug"),
	}.config()
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := caddy.Run(config); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	caddy.Log().Info("proxying watchRTC", zap.String("proxy_url", url))
	select {}
}

// config returns the configuration that the flags stand for, and the SDK's proxyUrl.
func (o proxyOptions) config() (*caddy.Config, string, error) {
	from, err := parseFrom(o.from)
	if err != nil {
		return nil, "", err
	}
	mount, ok := parseMount(o.path)
	if !ok {
		return nil, "", fmt.Errorf("--path %q: want a path such as /websocket, or / for the whole site", o.path)
	}
	if err := checkUpstreams(o.to); err != nil {
		return nil, "", fmt.Errorf("--to: %w", err)
	}
	if o.internalCerts && (from.Scheme == "http" || from.Host == "") {
		return nil, "", fmt.Errorf("--internal-certs: --from %q serves no HTTPS; want a host name in it, and not the scheme http", o.from)
	}
	apps := caddy.ModuleMap{"http": caddyconfig.JSON(o.httpApp(from, mount), nil)}
	if o.internalCerts {
		apps["tls"] = caddyconfig.JSON(caddytls.TLS{Automation: &caddytls.AutomationConfig{
			Policies: []*caddytls.AutomationPolicy{{
				SubjectsRaw: []string{from.Host},
				IssuersRaw:  []json.RawMessage{json.RawMessage(`{"module": "internal"}`)},
			}},
		}}, nil)
	}
	log := caddy.BaseLog{EncoderRaw: json.RawMessage(keyFilter)}
	if o.debug {
		log.Level = zap.DebugLevel.CapitalString()
	}
	return &caddy.Config{
		// The flags are the whole configuration, as with Caddy's own commands.
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: new(false)}},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: log}}},
		AppsRaw: apps,
	}, proxyURL(from, mount), nil
}

// parseFrom reads where to listen, and adds what is not said as Caddy's own commands
// do: https with a host, http without one or at port 80.
func parseFrom(s string) (httpcaddyfile.Address, error) {
	from, err := httpcaddyfile.ParseAddress(s)
	switch {
	case err != nil:
	case from.Scheme != "" && from.Scheme != "https" && from.Scheme != "http":
		err = errors.New("its scheme is not https or http")
	case from.Path != "":
		err = errors.New("it must have no path; --path is the mount")
	}
	if err != nil {
		return from, fmt.Errorf("--from %q: %v", s, err)
	}
	httpPort, httpsPort := strconv.Itoa(caddyhttp.DefaultHTTPPort), strconv.Itoa(caddyhttp.DefaultHTTPSPort)
	if from.Scheme == "" {
		from.Scheme = "https"
		if from.Host == "" || from.Port == httpPort {
			from.Scheme = "http"
		}
	}
	if from.Port == "" {
		from.Port = httpsPort
		if from.Scheme == "http" {
			from.Port = httpPort
		}
	}
	return from, nil
}

func (o proxyOptions) httpApp(from httpcaddyfile.Address, mount string) caddyhttp.App {
	handler := Handler{Upstreams: o.to, PathPrefix: mount}
	matchers := caddy.ModuleMap{}
	if mount != "" {
		matchers["path"] = caddyconfig.JSON(caddyhttp.MatchPath{mount, mount + "/*"}, nil)
	}
	if from.Host != "" {
		matchers["host"] = caddyconfig.JSON(caddyhttp.MatchHost{from.Host}, nil)
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(handler, "handler", directive, nil)}}
	if len(matchers) > 0 {
		route.MatcherSetsRaw = caddyhttp.RawMatcherSets{matchers}
	}
	server := &caddyhttp.Server{Listen: []string{":" + from.Port}, Routes: caddyhttp.RouteList{route}}
	if from.Scheme == "http" {
		server.AutoHTTPS = &caddyhttp.AutoHTTPSConfig{Disabled: true}
	}
	if o.accessLog {
		server.Logs = &caddyhttp.ServerLogConfig{}
	}
	return caddyhttp.App{Servers: map[string]*caddyhttp.Server{"watchrtc": server}}
}

// proxyURL returns the SDK's proxyUrl, without the port where it is the scheme's own.
func proxyURL(from httpcaddyfile.Address, mount string) string {
	if from.Host == "" {
		from.Host = "localhost"
	}
	scheme, host := strings.Replace(from.Scheme, "http", "ws", 1), from.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	standard := map[string]int{"http": caddyhttp.DefaultHTTPPort, "https": caddyhttp.DefaultHTTPSPort}[from.Scheme]
	if from.Port != strconv.Itoa(standard) {
		host += ":" + from.Port
	}
	return scheme + "://" + host + mount
}
