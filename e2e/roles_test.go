package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/echoes"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
)

// roles are what this program does when the tests start it once more, so that a relay or
// a client can be stopped and killed on its own.
var roles = map[string]func(ctx context.Context, args []string) error{
	"relay":   playRelay,
	"readers": playReaders,
}

// play plays the role that the command line names, until a SIGTERM.
func play(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return roles[args[0]](ctx, args[1:])
}

// startRole runs this program in a role until t ends.
func startRole(t *testing.T, name, role string, args ...string) *program.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return program.Start(t, name, exec.Command(self, append([]string{role}, args...)...))
}

// playRelay takes the address and the files of the certificate and its key.
func playRelay(ctx context.Context, args []string) error {
	return echoes.Serve(ctx, args[0], args[1], args[2])
}

const (
	readersOpen = "readers are open"
	readersSaw  = "readers saw "
)

// playReaders opens so many WebSockets at the URL, which the relay floods, and says at
// the end what came.
func playReaders(ctx context.Context, args []string) error {
	url, roots := args[0], args[1]
	pem, err := os.ReadFile(roots)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	var n int
	if _, err := fmt.Sscan(args[2], &n); err != nil {
		return err
	}
	crowd := echoes.New(echoes.Config{URL: url, TLS: &tls.Config{RootCAs: pool}, Flood: true, Patience: patience, Stall: patience})
	crowd.Open(n)
	fmt.Println(readersOpen)
	<-ctx.Done()
	saw, err := json.Marshal(crowd.Close())
	fmt.Println(readersSaw + string(saw))
	return err
}

// startReaders returns once n WebSockets are open.
func startReaders(t *testing.T, url, roots string, n int) *program.Process {
	t.Helper()
	process := startRole(t, "readers", "readers", url, roots, fmt.Sprint(n))
	process.Await(t, patience, readersOpen)
	return process
}

// endReaders has them leave in order, and returns what they saw.
func endReaders(t *testing.T, process *program.Process) (saw echoes.Summary) {
	t.Helper()
	process.Signal(syscall.SIGTERM)
	line := process.Await(t, patience, readersSaw)
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, readersSaw)), &saw); err != nil {
		t.Fatal(err)
	}
	process.Wait(time.Minute)
	return saw
}
