package contestant

import (
	"context"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	pid, parent, err := parseStat("42 (a) b (c)) S 7 42 42 0 -1")
	if err != nil || pid != 42 || parent != 7 {
		t.Errorf("parseStat: %d, %d, %v", pid, parent, err)
	}
	pss, err := parsePSS("00400000-7fff [rollup]\nRss:  99 kB\nPss:                1234 kB\nPss_Dirty: 5 kB\n")
	if err != nil || pss != 1234<<10 {
		t.Errorf("parsePSS: %d, %v", pss, err)
	}
	busy, err := parseMachineCPU("cpu  1 2 3 1000 1000 4 5 6 0 0\ncpu0 9 9")
	if err != nil || busy != 210*time.Millisecond {
		t.Errorf("parseMachineCPU: %v, %v", busy, err)
	}
	if _, err := parsePSS("Rss: 1 kB\n"); err == nil {
		t.Error("parsePSS found what isn't there")
	}
}

// TestUsageOfChildren measures a shell whose child does the work.
func TestUsageOfChildren(t *testing.T) {
	cmd := exec.CommandContext(context.Background(), "sh", "-c", "(while :; do :; done) & read _; kill $!")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	time.Sleep(300 * time.Millisecond)

	p := &Process{cmd: cmd}
	var pids []int
	if err := p.each(func(pid int) error { pids = append(pids, pid); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(pids) != 2 || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("processes %v, shell %d", pids, cmd.Process.Pid)
	}
	if cpu, err := p.CPU(); err != nil || cpu < 20*time.Millisecond {
		t.Errorf("CPU %v, %v", cpu, err)
	}
	if pss, err := p.PSS(); err != nil || pss < 50<<10 {
		t.Errorf("PSS %d, %v", pss, err)
	}
}
