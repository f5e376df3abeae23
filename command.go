package watchrtcproxy

import (
	"errors"
	"fmt"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "watchrtc-proxy",
		Usage: "[--from <addr>] [--to <upstream>]... [--path <mount>] [--internal-certs] [--access-log] [--debug]",
		Short: "A quick and production-ready proxy for watchRTC",
		Long: `
A simple but production-ready proxy that carries watchRTC's WebSockets, and the
HTTPS requests that the SDK falls back to, to the relay. Useful for quick
deployments, demos, and development; a Caddyfile has all options.

--from is where the proxy listens. With a host name Caddy serves HTTPS with a
certificate for it, unless the scheme is http or the port is 80. Default:
localhost, whose certificate is of Caddy's own authority.

--to is the relay: production (the default), staging, or a URL with the scheme
wss, https, ws or http, such as wss://relay.example:8443/base.

--path is the mount, which is cut off before a request goes on. / stands for the
whole site. Default: /websocket.

--internal-certs has Caddy's own authority issue the certificate instead of a
public one. Caddy installs that authority's root certificate on this computer where
it may, as its other commands do; 'caddy untrust' takes it out again.

--access-log enables the access log. The SDK's keys, which are in its URLs, are
taken out of all logs.

The SDK's proxyUrl is then wss://<from><path>; 'caddy watchrtc-check' checks it.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().StringP("from", "f", "localhost", "Address on which to receive traffic")
			cmd.Flags().StringArrayP("to", "t", nil, "Relay: production, staging or a URL (default production)")
			cmd.Flags().StringP("path", "p", "/websocket", "Mount, which is cut off; / for the whole site")
			cmd.Flags().BoolP("internal-certs", "i", false, "Use internal CA for issuing certs")
			cmd.Flags().BoolP("access-log", "", false, "Enable the access log")
			cmd.Flags().BoolP("debug", "v", false, "Enable verbose debug logs")
			cmd.Args = cobra.NoArgs
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runProxy)
			suggest(cmd, "to", presetProduction, presetStaging)
		},
	})
	caddycmd.RegisterCommand(caddycmd.Command{
		Name: "watchrtc-check",
		Usage: "[--api-key <key>] [--token <token>] [--origin <origin>] [--count <n>] [--every <duration>]" +
			" [--insecure] [--json] <wss-url>",
		Short: "Checks step by step whether a watchRTC proxy works",
		Long: `
Goes the way of the SDK, from name to relay, to the URL that is the SDK's proxyUrl,
such as wss://relay-proxy.example.com/websocket. Each step is ok, failed, or not
tested; then there is a verdict, and what to do:

  resolve    the name has addresses
  connect    each address can be connected to
  tls        the certificate is valid, and for how long
  websocket  a WebSocket opens
  greeting   the relay greets the client (needs a key)
  trace      POST /trace, for networks without WebSockets
  preflight  pages of the origin may send it (needs an origin)
  config     GET /get-qualityrtc-config (needs a key)

--api-key is the SDK's key, --token a token instead of it. --origin is that of the
pages with the SDK, such as https://app.example.com; without it CORS is not tested.
Neither keys nor queries are printed.

--count checks so many times, --every goes on like ping, until interrupted or
through with --count, one line each. Less than 1s is refused; 1s is also what
--count alone does.

--insecure goes on where the certificate is not trusted. --json writes each check as
one line of JSON:

  {"url","ok","steps":[{"name","status","ms","detail","hint"}]}

The exit status is 0 if no step has failed, 1 if one has, 2 for wrong usage.
NO_COLOR turns colours off; output that is no terminal has none.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Flags().StringP("api-key", "k", "", "The SDK's API key")
			cmd.Flags().StringP("token", "t", "", "A token, instead of the key")
			cmd.Flags().StringP("origin", "o", "", "Origin of the pages with the SDK")
			cmd.Flags().IntP("count", "c", 0, "How many times to check (default 1, or without end with --every)")
			cmd.Flags().StringP("every", "e", "", "How long from one check to the next, 1s at least")
			cmd.Flags().BoolP("insecure", "", false, "Go on where the certificate is not trusted")
			cmd.Flags().BoolP("json", "j", false, "Write JSON")
			cmd.ValidArgsFunction = cobra.NoFileCompletions
			cmd.SetFlagErrorFunc(wrongFlag)
			cmd.RunE = runCheck
		},
	})
}

// suggest offers values for a flag.
func suggest(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such flag
	}
}

// errFailed has the process end with status 1. Why has been said already.
var errFailed = errors.New("failed")

const exitUsage = 2

// wrongUsage has the process end with status 2, and says why in plain words; Caddy
// would log them as JSON.
func wrongUsage(cmd *cobra.Command, err error) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "Error: %v\nRun '%s --help' for usage.\n", err, cmd.CommandPath())
	return exitStatus(cmd, exitUsage)
}

// wrongFlag is wrongUsage of a flag that is not known or lacks its value. The error may
// quote one that holds a key, as -apikey=k.
func wrongFlag(cmd *cobra.Command, err error) error {
	text, _, _ := strings.Cut(err.Error(), "=")
	return wrongUsage(cmd, errors.New(text))
}

// exitStatus is an error that has the process end with status, and nothing printed:
// neither by cobra nor, as there is no other error, by Caddy.
func exitStatus(cmd *cobra.Command, status int) error {
	cmd.SilenceErrors = true
	if status == 1 { // which Caddy's wrapper takes for 0 where there is no error
		return errFailed
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return status, nil })(cmd, nil)
}
