package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is identified by its number and start time, since numbers are reused.
type process struct {
	PID int `json:"pid"`
	// Clock ticks since the machine started.
	Start uint64 `json:"start"`
}

// processOf identifies a running process.
func processOf(pid int) (process, error) {
	st, err := readStat(pid)
	return process{PID: pid, Start: st.start}, err
}

// alive says whether it still runs; a zombie does not.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	st, err := readStat(p.PID)
	return err == nil && st.start == p.Start && st.state != 'Z' && st.state != 'X'
}

// procStat is what of /proc/PID/stat matters here.
type procStat struct {
	comm  string
	state byte
	ppid  int
	start uint64
	// User and system time, of ended threads too.
	cpu time.Duration
}

// clockTick is the unit of times in /proc: USER_HZ is 100 on every port of Linux that Go has.
const clockTick = 10 * time.Millisecond

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (procStat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')') // the name may hold anything
	if open < 0 || end < open {
		return procStat{}, errors.New("malformed stat")
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return procStat{}, errors.New("malformed stat")
	}
	st := procStat{comm: string(b[open+1 : end]), state: f[0][0]}
	var errs [4]error
	var user, system uint64
	st.ppid, errs[0] = strconv.Atoi(f[1])
	user, errs[1] = strconv.ParseUint(f[11], 10, 64)
	system, errs[2] = strconv.ParseUint(f[12], 10, 64)
	st.start, errs[3] = strconv.ParseUint(f[19], 10, 64)
	st.cpu = time.Duration(user+system) * clockTick
	return st, errors.Join(errs[:]...)
}

// allProcesses of this machine with their facts.
func allProcesses() map[int]procStat {
	out := map[int]procStat{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if st, err := readStat(pid); err == nil {
				out[pid] = st
			}
		}
	}
	return out
}

// treeOf lists a process and all its descendants, in order of their numbers.
func treeOf(root int) []int {
	all := allProcesses()
	in := map[int]bool{root: true}
	for grown := true; grown; {
		grown = false
		for pid, st := range all {
			if !in[pid] && in[st.ppid] {
				in[pid], grown = true, true
			}
		}
	}
	out := make([]int, 0, len(in))
	for pid := range in {
		if st, ok := all[pid]; ok && st.state != 'Z' {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// signalTree stops a whole tree, so that nothing of it forks away, and then
// sends it the signal. root must be a subreaper.
func signalTree(root process, sig unix.Signal) {
	for range 20 { // until no process appears any more
		var running int
		for _, pid := range treeOf(root.PID) {
			if st, err := readStat(pid); err == nil && st.state != 'T' {
				running++
				_ = unix.Kill(pid, unix.SIGSTOP)
			}
		}
		if running == 0 {
			break
		}
	}
	if sig == unix.SIGSTOP {
		return
	}
	tree := treeOf(root.PID)
	slices.Reverse(tree)
	for _, pid := range tree {
		_ = unix.Kill(pid, sig)
	}
}

// marker is an entry in the environment of all that a node runs.
func marker(lab, node string) string { return markerVariable + "=" + lab + "/" + node }

const markerVariable = "HOLDFAST_LAB"

// marked lists processes whose environment has an entry that starts with one
// of the prefixes: what a loopback node left behind when its first process is gone.
func marked(prefixes ...string) []int {
	has := func(entry string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(entry, p) })
	}
	var out []int
	for pid := range allProcesses() {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err == nil && pid != os.Getpid() && slices.ContainsFunc(strings.Split(string(b), "\x00"), has) {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// serviceMarkers are entries in the environment of what the agents of a node
// run, which is not inherited.
func serviceMarkers(p *nodePlan) []string {
	return []string{"HOLDFAST_SERVICE=" + p.RunDir() + "//", "HOLDFAST_CALL=" + p.RunDir() + "//"}
}

// forkExec starts a program whose end only wait4 reports.
func forkExec(argv, env []string, stdin, out *os.File) (int, error) {
	path := argv[0]
	if !strings.ContainsRune(path, '/') {
		var err error
		if path, err = exec.LookPath(path); err != nil {
			return 0, err
		}
	}
	pid, _, err := syscall.StartProcess(path, argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{stdin.Fd(), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}})
	return pid, err
}
