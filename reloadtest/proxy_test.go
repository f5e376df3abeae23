//go:build unix

package reloadtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-watchrtc/watchrtc-proxy/internal/wstest"
)

// buildDir holds the binary while the tests run.
var buildDir string

var full = flag.Bool("full", false, "open as many tunnels as docs/reloads.md speaks of, and run the slowest tests")

// sized is n tunnels in a full run, and fewer in one of everyday.
func sized(n int) int {
	if *full {
		return n
	}
	return n / 4
}

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "12") // what runs in parallel waits most of the time
	raiseOpenFiles()
	var err error
	if buildDir, err = os.MkdirTemp("", "watchrtc"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
}

// raiseOpenFiles makes room for thousands of connections, here and, since limits
// are inherited, in the proxy.
func raiseOpenFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur < limit.Max {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// caddyBinary builds cmd/caddy, once, with the race detector if the tests have it.
var caddyBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "caddy")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../cmd/caddy")...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return path, err
})

// proxy is a Caddy process.
type proxy struct {
	testing.TB
	name string // of its files, and its admin socket
	dir  string
	addr string // of its HTTPS listener
	*process
	admin http.Client
}

// process is a command whose log is read.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}

	mu    sync.Mutex // protects what follows
	more  sync.Cond
	lines []string
	heed  string // runs heard at the next line with this text
	heard func()
	ended time.Time
	over  bool
}

// startProxy runs Caddy with the configuration and returns when that serves.
// Environment variables can be given. Its files are in dir.
func startProxy(t testing.TB, dir, name, addr, config string, env ...string) *proxy {
	t.Helper()
	return startProxyWith(t, nil, dir, name, addr, config, env...)
}

// startProxyWith has the process inherit files, the first as descriptor 3.
func startProxyWith(t testing.TB, files []*os.File, dir, name, addr, config string, env ...string) *proxy {
	t.Helper()
	path, err := caddyBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{TB: t, name: name, dir: dir, addr: addr}
	p.admin.Transport = &http.Transport{
		DisableKeepAlives: true, // which count as goroutines
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.sock())
		},
	}
	p.writeConfig(config)
	cmd := exec.Command(path, "run", "--config", p.file())
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"ADMIN=unix/"+p.sock(), "GORACE=exitcode=0 atexit_sleep_ms=0")
	cmd.Env = append(cmd.Env, env...)
	cmd.ExtraFiles = files
	p.process = startProcess(t, cmd)
	p.awaitLog("serving initial configuration")
	return p
}

func (p *proxy) sock() string { return filepath.Join(p.dir, p.name+".sock") }
func (p *proxy) file() string { return filepath.Join(p.dir, p.name+".Caddyfile") }

func (p *proxy) writeConfig(config string) {
	p.Helper()
	if err := os.WriteFile(p.file(), []byte(config), 0o600); err != nil {
		p.Fatal(err)
	}
}

func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	p.more.L = &p.mu
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.readLog(stderr)
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if it lives
		<-p.exited
		if t.Failed() {
			t.Logf("%v said:\n%s", cmd.Args[1:], p.tail(20))
		}
		for _, race := range p.dataRaces() {
			t.Error(race)
		}
	})
	return p
}

// dataRaces returns the reports of the race detector but for the one race that Caddy
// has with itself: its admin server is replaced by a load while a signal stops it.
func (p *process) dataRaces() (races []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, part := range strings.Split(strings.Join(p.lines, "\n"), "==================\n") {
		ofCaddy := strings.Contains(part, "caddy/v2.replaceLocalAdminServer()") &&
			strings.Contains(part, "caddy/v2.exitProcess.func1()")
		if strings.HasPrefix(part, "WARNING: DATA RACE") && !ofCaddy {
			races = append(races, part)
		}
	}
	return races
}

func (p *process) readLog(stderr io.Reader) {
	scan := bufio.NewScanner(stderr)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, scan.Text())
		if p.heard != nil && strings.Contains(scan.Text(), p.heed) {
			p.heard()
			p.heard = nil
		}
		p.more.Broadcast()
		p.mu.Unlock()
	}
	_ = p.cmd.Wait() // its ProcessState has the code
	p.mu.Lock()
	if err := scan.Err(); err != nil {
		p.lines = append(p.lines, "the rest of its log cannot be read: "+err.Error())
	}
	p.over, p.ended = true, time.Now()
	p.more.Broadcast()
	p.mu.Unlock()
	close(p.exited)
}

// awaitLog returns when n lines with the text have been logged since the start.
func (p *proxy) awaitLog(text string) { p.Helper(); p.awaitLogs(text, 1) }

func (p *proxy) awaitLogs(text string, n int) {
	p.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.more.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for from, seen := 0, 0; ; p.more.Wait() {
		for ; from < len(p.lines); from++ {
			if strings.Contains(p.lines[from], text) {
				seen++
			}
		}
		if seen >= n {
			return
		}
		if p.over || late {
			p.Fatalf("%q is logged %d times, want %d", text, seen, n)
		}
	}
}

// onLog runs heard when a line with the text is logged from now on.
func (p *process) onLog(text string, heard func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heed, p.heard = text, heard
}

// count returns how many lines with the text have been logged.
func (p *process) count(text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// tail returns the last n lines that are not about the end of a tunnel.
func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lines []string
	for _, line := range p.lines {
		if !strings.Contains(line, `"tunnel closed"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *proxy) signal(sig os.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.Fatal(err)
	}
}

// awaitExit returns the process's exit code.
func (p *proxy) awaitExit(within time.Duration) int {
	p.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		_ = p.cmd.Process.Signal(syscall.SIGABRT) // which says where it hangs
		<-p.exited
		p.Fatalf("the process lived on for %v", within)
	}
	return p.cmd.ProcessState.ExitCode()
}

// ask sends a request to the admin endpoint and returns the response's body.
func (p *proxy) ask(method, path, contentType string, body string) []byte {
	p.Helper()
	req, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		p.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	response, err := p.admin.Do(req)
	if err != nil {
		p.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		p.Fatalf("%s %s: %s %s %v", method, path, response.Status, got, err)
	}
	return got
}

// load has the configuration loaded through the admin endpoint.
func (p *proxy) load(config string) {
	p.Helper()
	p.ask(http.MethodPost, "/load", "text/caddyfile", config)
}

// run runs another Caddy command and returns what it says.
func (p *proxy) run(args ...string) string {
	p.Helper()
	cmd := exec.Command(p.cmd.Path, args...)
	cmd.Env = p.cmd.Env
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.Fatalf("caddy %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// usage is what the process holds.
type usage struct {
	Goroutines int
	Heap       int // bytes reachable
	Stack      int
}

// usage collects garbage and measures.
func (p *proxy) usage() usage {
	p.Helper()
	for range 3 { // sync.Pool gives back what it holds in two cycles
		p.ask(http.MethodGet, "/debug/pprof/heap?gc=1", "", "")
	}
	var vars struct {
		Memstats struct{ HeapAlloc, StackInuse int }
	}
	if err := json.Unmarshal(p.ask(http.MethodGet, "/debug/vars", "", ""), &vars); err != nil {
		p.Fatal(err)
	}
	var n int
	head, _, _ := bytes.Cut(p.ask(http.MethodGet, "/debug/pprof/goroutine?debug=1", "", ""), []byte("\n"))
	if _, err := fmt.Sscanf(string(head), "goroutine profile: total %d", &n); err != nil {
		p.Fatal(err)
	}
	return usage{n, vars.Memstats.HeapAlloc, vars.Memstats.StackInuse}
}

// reserve returns an address of which nobody else can have the port while the
// test runs: a socket is bound to it, which does not listen. Caddy can bind it as
// well, since it sets SO_REUSEPORT.
func reserve(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	unix.CloseOnExec(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port)
}

// testCA signs the certificates of a test run.
var testCA = wstest.NewAuthority("test CA")

// writeCertificates puts ca.pem, cert.pem and key.pem into a new directory.
func writeCertificates(t testing.TB) (dir string) {
	t.Helper()
	// Not t.TempDir: the path of a unix socket in it must not be long.
	dir, err := os.MkdirTemp(buildDir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testCA.WriteFile(dir, "ca.pem"); err != nil {
		t.Fatal(err)
	}
	renewCertificate(t, dir)
	return dir
}

func renewCertificate(t testing.TB, dir string) {
	t.Helper()
	cert := testCA.Issue("localhost", "127.0.0.1")
	for name, pem := range map[string][]byte{"key.pem": cert.KeyPEM, "cert.pem": cert.CertPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
