package contestant

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
)

// Machine describes what all this runs on.
func Machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	model := "unknown processor"
	if m := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(cpuinfo); m != nil {
		model = string(m[1])
	}
	return fmt.Sprintf("%s, %d cores, Linux %s", model, runtime.NumCPU(), strings.TrimSpace(string(kernel)))
}

// versionCommands print a contestant's version, and the line to look for.
var versionCommands = map[string]struct {
	command []string
	line    *regexp.Regexp
}{
	"nginx":   {[]string{"nginx", "-V"}, regexp.MustCompile(`nginx version: nginx/(\S+)|built with (OpenSSL \S+)`)},
	"haproxy": {[]string{"haproxy", "-vv"}, regexp.MustCompile(`HAProxy version (\S+)|Running on OpenSSL version : (OpenSSL \S+)`)},
}

// Version says what of a contestant runs. Ours and reverse_proxy are one
// binary.
func (l *Lab) Version(c Contestant) (string, error) {
	v, ok := versionCommands[c.Name]
	if !ok {
		return caddyVersion(l.Caddy)
	}
	out, err := exec.Command(v.command[0], v.command[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(v.command, " "), err, out)
	}
	var parts []string
	for _, m := range v.line.FindAllStringSubmatch(string(out), -1) {
		parts = append(parts, strings.Join(m[1:], ""))
	}
	return strings.Join(parts, ", "), nil
}

func caddyVersion(caddy string) (string, error) {
	info, err := buildinfo.ReadFile(caddy)
	if err != nil {
		return "", err
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/caddyserver/caddy/v2" {
			return fmt.Sprintf("Caddy %s, %s", dep.Version, info.GoVersion), nil
		}
	}
	return "", fmt.Errorf("%s is no Caddy", caddy)
}
