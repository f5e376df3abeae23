package integration_test

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/goleak"

	_ "github.com/caddy-watchrtc/watchrtc-proxy"
	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// The certificates of these tests: one for every proxy and relay.
var (
	authority  = wstest.NewAuthority("integration test")
	leaf       = authority.Issue("localhost", "relay.example", "127.0.0.1")
	scratch    string // where Caddy keeps its locks and the like
	rootsFile  string
	proxyFiles wstest.Files
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !strings.Contains(os.Getenv("GODEBUG"), extendedConnect) {
		os.Exit(withExtendedConnect())
	}
	flag.Set("test.parallel", "8") // what runs in parallel waits most of the time
	// The relays of these tests are on loopback, whatever their names.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		os.Unsetenv(name)
		os.Unsetenv(strings.ToLower(name))
	}
	if err := prepare(); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	if err := lastLeaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.RemoveAll(scratch)
	os.Exit(code)
}

// lastLeaks gives what a configuration that has gone keeps for late requests time to end.
func lastLeaks() (err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = leaks(); err == nil {
			break
		}
	}
	return err
}

// takesLong skips a test that has to wait for 5 s, unless the race detector is on: with it
// everything is run (.ci/run tests).
func takesLong(t *testing.T) {
	t.Helper()
	if testing.Short() || !raceEnabled {
		t.Skip("it waits for 5 s; run it with -race")
	}
}

// extendedConnect is what lets Go's HTTP/2 server, and so Caddy's, take WebSockets. It
// is read when a process starts.
const extendedConnect = "http2xconnect=1"

// withExtendedConnect runs the tests in a process that has extended CONNECT enabled.
func withExtendedConnect() (code int) {
	exe, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+","+extendedConnect, ","))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			log.Fatal(err)
		}
		return max(cmd.ProcessState.ExitCode(), 1)
	}
	return 0
}

func prepare() (err error) {
	if scratch, err = os.MkdirTemp("", "integration"); err != nil {
		return err
	}
	if rootsFile, err = authority.WriteFile(scratch, "roots.pem"); err != nil {
		return err
	}
	proxyFiles, err = leaf.WriteFiles(scratch, "proxy")
	return err
}

// lockKeeper is a goroutine of Caddy's that notices only now and then that its lock is
// gone.
var lockKeeper = goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")

// leaks reports goroutines that are left when no Caddy runs.
func leaks() error {
	if err := caddy.Stop(); err != nil {
		return err
	}
	// Where an upload has been cut short net/http keeps its connection for half a second,
	// and looks every half second whether it is gone: longer than Find waits.
	if goleak.Find(lockKeeper) == nil {
		return nil
	}
	return goleak.Find(lockKeeper)
}

// inScratch returns the name of a file that goes when the tests have ended. Unlike
// those of t.TempDir it is short enough for a unix socket.
func inScratch(name string) string { return filepath.Join(scratch, name) }
