package e2e

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/caddy"
	"github.com/caddy-watchrtc/watchrtc-proxy/e2e/internal/echoes"
)

// ports is how many there are for connections to one address, and portRange which.
const (
	ports     = 60
	portRange = "40000 40059"
)

var outOfPorts = fault{
	name: "out of ports", did: "each port of `ip_local_port_range` in use toward the relay",
	happens: "new ones get 502; the relay counts as up",
	mount:   scarce, inflict: nothing, under: takePorts, refused: 502, stage: "connect",
	// A port is free again one second after its connection's end (tcp_tw_reuse).
	lingers: 10 * time.Second,
}

// namespaceVar says that this process has a network of its own.
const namespaceVar = "WATCHRTC_E2E_NAMESPACE"

// TestOutOfPorts has all of it in a network namespace, as ports are the machine's.
func TestOutOfPorts(t *testing.T) {
	if os.Getenv(namespaceVar) == "" {
		runInNamespace(t, 2*time.Minute)
		return
	}
	bringUpLoopback(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(portRange), 0); err != nil {
		t.Fatal(err)
	}
	outOfPorts.test(t, newFaultSite(t))
}

// runInNamespace runs the test in a process that has a network of its own.
func runInNamespace(t *testing.T, timeout time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout="+timeout.String())
	cmd.Env = append(os.Environ(), namespaceVar+"=1", "WATCHRTC_E2E_CADDY="+caddy.Binary())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func bringUpLoopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

// takePorts has clients come over another address of the proxy's, since their own ports
// are as few, until each port toward the relay is in use.
func takePorts(t *testing.T, s *faultSite, crowd *echoes.Crowd) echoes.Summary {
	greedy := s.crowd(scarce, "127.0.0.2:"+port(s.addr), 50*time.Millisecond)
	greedy.Open(ports)
	if got := greedy.Summary(); got.Opened != ports-victims-bystanderCount {
		t.Errorf("%d ports for %d WebSockets: %+v", ports, victims, got)
	}
	crowd.Open(victims)
	s.checkUp(t, scarce)
	return greedy.Close()
}
