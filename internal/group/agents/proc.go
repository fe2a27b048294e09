package agents

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process of this machine. Start, in clock ticks since boot, tells it from a later one with the same pid.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// procStat is what is needed of /proc/PID/stat.
type procStat struct {
	process
	parent, session int
	zombie          bool
}

// readStat fails if there is no such process.
func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	// The command in parentheses may hold anything, also parentheses.
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return procStat{}, fmt.Errorf("/proc/%d/stat can't be read", pid)
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	parent, err1 := strconv.Atoi(f[1])
	session, err2 := strconv.Atoi(f[3])
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return procStat{}, err
	}
	return procStat{
		process: process{Pid: pid, Start: start}, parent: parent, session: session,
		zombie: f[0] == "Z" || f[0] == "X",
	}, nil
}

// alive: it exists and has not ended, even if nobody has reaped it yet.
func (p process) alive() bool {
	if p.Pid <= 0 {
		return false
	}
	st, err := readStat(p.Pid)
	return err == nil && st.Start == p.Start && !st.zombie
}

// signal sends it a signal; never to another process that has got its pid since.
func (p process) signal(sig unix.Signal) error {
	fd, err := p.open()
	if err != nil {
		return nil // gone
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %d to process %d: %w", sig, p.Pid, err)
	}
	return nil
}

// open returns a pidfd of exactly this process; unix.ESRCH if it has ended and was reaped.
func (p process) open() (int, error) {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return -1, err
	}
	if st, err := readStat(p.Pid); err != nil || st.Start != p.Start {
		unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// eachProcess calls do for every process of the machine that has not ended.
func eachProcess(do func(procStat)) error {
	d, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && !st.zombie {
			do(st)
		}
	}
	return nil
}

// commandLine of a process, argument by argument.
func commandLine(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// environ returns the value of a variable in the environment that the process was started with.
func environ(pid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for _, v := range bytes.Split(b, []byte{0}) {
		if value, ok := bytes.CutPrefix(v, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// isCommand: the process is argv, or the interpreter of a script that is argv.
func isCommand(pid int, argv []string) bool {
	have := commandLine(pid)
	if len(have) < len(argv) {
		return false
	}
	if slices.Equal(have, argv) {
		return true
	}
	tail := have[len(have)-len(argv):]
	if !slices.Equal(tail[1:], argv[1:]) {
		return false
	}
	return tail[0] == argv[0] || len(have) == len(argv) && exe(pid) == argv[0]
}

// isStranger: the process lives in the same network as this one and was started by no cluster node.
func isStranger(pid int) bool {
	own, err1 := os.Readlink("/proc/self/ns/net")
	its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	groups, err3 := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return errors.Join(err1, err2, err3) == nil && own == its && !bytes.Contains(groups, []byte("/holdfast-")) &&
		environ(pid, serviceVariable) == "" && environ(pid, callVariable) == ""
}

func exe(pid int) string {
	p, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(p, " (deleted)")
}

// fromPidFile returns the live process that a pid file names; false with the reason if there is none. A process that
// was started after the file was written has only inherited the number.
func fromPidFile(name string) (process, string, bool) {
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return process{}, fmt.Sprintf("%s does not exist", name), false
	}
	if err != nil {
		return process{}, err.Error(), false
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(b[:min(len(b), 64)])), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return process{}, fmt.Sprintf("%s holds no process number", name), false
	}
	st, err := readStat(pid)
	if err != nil || st.zombie {
		return process{}, fmt.Sprintf("there is no process %d (%s)", pid, filepath.Base(name)), false
	}
	info, err := os.Stat(name)
	if err != nil {
		return process{}, err.Error(), false
	}
	if st.startTime().After(info.ModTime().Add(2 * time.Second)) {
		return process{}, fmt.Sprintf("process %d is younger than %s: it is another one", pid, name), false
	}
	return st.process, "", true
}

// startTime by the present wall clock. /proc counts in hundredths of a second since boot.
func (st procStat) startTime() time.Time {
	var boot, real unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_REALTIME, &real) != nil {
		return time.Time{}
	}
	age := time.Duration(boot.Nano()) - time.Duration(st.Start)*10*time.Millisecond
	return time.Unix(0, real.Nano()).Add(-age)
}
