package contestant

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// MachineCPU returns the processor time that everything on this machine has
// used so far.
func MachineCPU() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseMachineCPU(string(b))
}

// tick is the unit of /proc/stat.
const tick = 10 * time.Millisecond

func parseMachineCPU(stat string) (time.Duration, error) {
	var user, nice, system, idle, iowait, irq, softirq, steal int64
	line, _, _ := strings.Cut(stat, "\n")
	_, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal)
	if err != nil {
		return 0, fmt.Errorf("/proc/stat begins with %q: %w", line, err)
	}
	return time.Duration(user+nice+system+irq+softirq+steal) * tick, nil
}
