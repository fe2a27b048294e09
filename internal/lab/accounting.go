package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// nodeProcesses lists the processes of a node by number.
func (l *Lab) nodeProcesses(name string) ([]int, error) {
	p, r, err := l.rec.machine(name)
	if err != nil {
		return nil, err
	}
	if p.Cgroup != "" {
		return cgroup(p.Cgroup).processes(), nil
	}
	return treeOf(r.Init.PID), nil
}

// find lists the processes of a node whose command line satisfies is.
func (l *Lab) find(name string, is func(argv []string) bool) ([]int, error) {
	all, err := l.nodeProcesses(name)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, pid := range all {
		if is(commandLineOf(pid)) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// commandLineOf a process; one empty word if it is gone, or a zombie.
func commandLineOf(pid int) []string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
}

// isDaemon recognises guard and clusterd.
func isDaemon(which string) func([]string) bool {
	return func(argv []string) bool {
		return len(argv) > 1 && strings.HasPrefix(filepath.Base(argv[0]), "holdfast") && argv[1] == which
	}
}

// isWeb recognises the default cluster's web server.
func isWeb(argv []string) bool {
	return strings.HasPrefix(argv[0], "nginx:") || filepath.Base(argv[0]) == "nginx" ||
		len(argv) > 2 && argv[1] == "lab" && argv[2] == webCommand
}

// KillProcesses sends SIGKILL to all processes of a node that match, and
// returns how many there were and the time just before.
func (l *Lab) KillProcesses(name string, is func([]string) bool) (int, time.Duration, error) {
	pids, err := l.find(name, is)
	if err != nil {
		return 0, 0, err
	}
	at := monotonic()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return 0, at, fmt.Errorf("kill process %d of %s: %w", pid, name, err)
		}
	}
	return len(pids), at, nil
}

// usage is what one process has used.
type usage struct {
	cpu time.Duration
	// Resident, and the proportional share of it, in bytes.
	rss, pss int64
}

func usageOf(pid int) (usage, error) {
	st, err := readStat(pid)
	if err != nil {
		return usage{}, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return usage{}, err
	}
	u := usage{cpu: st.cpu}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		switch {
		case err != nil:
		case f[0] == "Rss:":
			u.rss = kb << 10
		case f[0] == "Pss:":
			u.pss = kb << 10
		}
	}
	return u, nil
}

// daemonUsage adds up guard and clusterd of a node, and returns both apart too.
func (l *Lab) daemonUsage(name string) (total usage, each map[string]usage, err error) {
	each = map[string]usage{}
	for _, which := range []string{"guard", "clusterd"} {
		pids, err := l.find(name, isDaemon(which))
		if err != nil {
			return total, nil, err
		}
		if len(pids) != 1 {
			return total, nil, fmt.Errorf("node %s runs %d processes of %s, not one", name, len(pids), which)
		}
		u, err := usageOf(pids[0])
		if err != nil {
			return total, nil, err
		}
		each[which] = u
		total = usage{total.cpu + u.cpu, total.rss + u.rss, total.pss + u.pss}
	}
	return total, each, nil
}
