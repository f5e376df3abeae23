package e2e

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/pki"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/program"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/relay"
)

const dockerExample = "../examples/docker"

// TestContainer runs what each Dockerfile of examples/docker puts into an image, with
// its user, environment and command, as compose.yaml has it run: without capabilities,
// on a root that is read-only. There is no Docker here; container, the script, does what
// a runtime does.
func TestContainer(t *testing.T) {
	requireContainers(t)
	for _, file := range []string{"Dockerfile", "Dockerfile.runtime"} {
		t.Run(file, func(t *testing.T) { runImage(t, readImage(t, file)) })
	}
}

// requireContainers skips a test where the script can't work.
func requireContainers(t *testing.T) {
	t.Helper()
	for _, name := range []string{"busybox", "capsh", "unshare"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("no %s: install Debian's busybox-static, libcap2-bin and util-linux", name)
		}
	}
	if out, err := exec.Command("unshare", "--mount", "--ipc", "--uts", "true").CombinedOutput(); err != nil {
		t.Skipf("unshare is not permitted here, which needs root: %s", out)
	}
	binary, err := elf.Open(caddy.Binary())
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if libraries, err := binary.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Skipf("%s is linked to %q (%v): set WATCHRTC_E2E_CADDY to a binary that xcaddy has built", caddy.Binary(), libraries, err)
	}
}

func runImage(t *testing.T, image image) {
	ca := pki.New(t, "ca")
	upstream := relay.Start(t, ca, relay.Config{})
	root, health := makeRoot(t, image, ca, upstream)
	start := func(name string, command []string) *program.Process {
		cmd := exec.Command("./container", append([]string{root.dir, image.user}, command...)...)
		cmd.Env = append(image.env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
		return program.Start(t, name, cmd)
	}
	proxy := start("proxy", image.command)
	proxy.Await(t, patience, "serving initial configuration")

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", proxy.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Uid:\t10001\t10001", "Gid:\t10001\t10001"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("not %q in %s", want, status)
		}
	}

	ws := newClient(t, ca, stranger).dial(t, "wss://127.0.0.1:"+root.port+mount+"?apiKey=k")
	if err := ws.Write(soon(t), websocket.MessageText, []byte("through the container")); err != nil {
		t.Fatal(err)
	}
	conn, err := upstream.WaitConn(soon(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WaitMessage(soon(t), 1); err != nil {
		t.Error(err)
	}
	if got := conn.Request.Header.Get("X-Forwarded-For"); got != stranger {
		t.Errorf("X-Forwarded-For: %s", got)
	}
	if code := start("health", health).Wait(patience); code != 0 {
		t.Errorf("the health check ends with %d", code)
	}
	if _, err := os.Stat(filepath.Join(root.dir, "data/caddy")); err != nil {
		t.Errorf("nothing is stored: %v", err)
	}
	if lines := proxy.Log.Find("read-only file system"); len(lines) > 0 {
		t.Errorf("it writes to its root: %q", lines)
	}

	ended := make(chan error, 1)
	go func() {
		_, _, err := ws.Read(soon(t))
		ended <- err
	}()
	if code := proxy.Stop(); code != 0 {
		t.Errorf("stopped with %d", code)
	}
	if err := <-ended; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("at the stop the client got %v", err)
	}
}

// image is what the last stage of a Dockerfile says about running it.
type image struct {
	user    string
	env     []string
	command []string
}

// readImage reads the instructions that the example has, and fails on those it should
// not have.
func readImage(t *testing.T, file string) image {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dockerExample, file))
	if err != nil {
		t.Fatal(err)
	}
	var image image
	for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch instruction {
		case "FROM":
			image.env = nil
		case "ENV":
			image.env = append(image.env, rest)
		case "USER":
			image.user = rest
		case "CMD":
			image.command = words(t, rest)
		}
	}
	if image.user != "10001:10001" || image.command == nil {
		t.Fatalf("%s: %+v", file, image)
	}
	if strings.Contains(string(content), "setcap ") {
		t.Errorf("%s: file capabilities", file)
	}
	return image
}

// healthCheck is the command in compose.yaml, without its first word, CMD.
func healthCheck(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dockerExample, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(content), "\n      test: ")
	line, _, _ := strings.Cut(rest, "\n")
	if !found {
		t.Fatal("compose.yaml has no health check")
	}
	return words(t, line)[1:]
}

func words(t *testing.T, list string) []string {
	t.Helper()
	var words []string
	if err := json.Unmarshal([]byte(list), &words); err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	return words
}

// root is a folder with what is in the image and in its volumes.
type root struct {
	dir  string
	port string // for HTTPS
}

// makeRoot returns it with the command of the health check, at the port it has here.
func makeRoot(t *testing.T, image image, ca *pki.CA, upstream *relay.Server) (made root, health []string) {
	t.Helper()
	made = root{dir: filepath.Join(program.Dir(t), "root"), port: port(wstest.FreeAddr(t))}
	for _, folder := range []string{"dev", "proc", "data", "bin", "usr/bin", "etc/caddy"} {
		if err := os.MkdirAll(filepath.Join(made.dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(made.dir, "data"), 10001, 10001); err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	leaf := ca.Issue(t, "localhost", "127.0.0.1")
	for file, from := range map[string]string{
		"usr/bin/caddy":      caddy.Binary(),
		"usr/bin/wget":       busybox, // which Alpine's is
		"etc/caddy/ca.pem":   ca.File,
		"etc/caddy/cert.pem": leaf.CertFile,
		"etc/caddy/key.pem":  leaf.KeyFile,
	} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(made.dir, file), content, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(filepath.Join(dockerExample, "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	healthPort := port(wstest.FreeAddr(t))
	config := strings.NewReplacer(
		"http_port 8080", "http_port "+port(wstest.FreeAddr(t))+"\n\tadmin "+wstest.FreeAddr(t),
		"https_port 8443", "https_port "+made.port+"\n\tdefault_bind 127.0.0.1",
		":8081", ":"+healthPort,
		"relay-proxy.example.com {", "127.0.0.1 {\n\ttls /etc/caddy/cert.pem /etc/caddy/key.pem",
		"production\n", upstream.URL()+" {\n\t\tdrain_window 1s\n\t\ttransport http {\n\t\t\ttls_trust_pool file /etc/caddy/ca.pem\n\t\t}\n\t}\n",
	).Replace(string(content))
	if err := os.WriteFile(filepath.Join(made.dir, "etc/caddy/Caddyfile"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	health = healthCheck(t)
	health[len(health)-1] = strings.Replace(health[len(health)-1], ":8081", ":"+healthPort, 1)
	// A runtime looks a command up; the script is given its file.
	health[0], image.command[0] = "/usr/bin/"+health[0], "/usr/bin/"+image.command[0]
	return made, health
}
