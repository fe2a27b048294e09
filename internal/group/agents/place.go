package agents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// serviceVariable and callVariable mark processes where there is no control group: inherited by all that they start.
const (
	serviceVariable = "HOLDFAST_SERVICE"
	callVariable    = "HOLDFAST_CALL"
)

// place is where what belongs to one resource runs.
type place struct {
	h               *Host
	group, resource string
}

// fileName makes a name that is safe as one component of a path, and differs for different names.
func fileName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// groupDir is the control group of a whole group; empty: there are none.
func (h *Host) groupDir(group string) string {
	if h.cgroup == "" {
		return ""
	}
	return filepath.Join(h.cgroup, fileName(group))
}

func (p place) serviceDir() string { return filepath.Join(p.h.groupDir(p.group), fileName(p.resource)) }
func (p place) callDir() string    { return p.serviceDir() + ".call" }

// mark is the value of serviceVariable or callVariable. The run directory tells clusters on one machine apart.
func (p place) mark() string {
	return p.h.runDir + "//" + fileName(p.group) + "/" + fileName(p.resource)
}

// members are the live processes of the service.
func (p place) members() ([]procStat, error) {
	if p.h.cgroup != "" {
		return cgroupMembers(p.serviceDir())
	}
	return p.marked(serviceVariable, p.record().Session)
}

// marked finds processes by a variable or by their session.
func (p place) marked(variable string, session int) ([]procStat, error) {
	var out []procStat
	err := eachProcess(func(st procStat) {
		if session > 0 && st.session == session || environ(st.Pid, variable) == p.mark() {
			out = append(out, st)
		}
	})
	return out, err
}

func cgroupMembers(dir string) ([]procStat, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []procStat
	for _, f := range bytes.Fields(b) {
		pid, err := strconv.Atoi(string(f))
		if err != nil {
			return nil, fmt.Errorf("%s/cgroup.procs: %w", dir, err)
		}
		if st, err := readStat(pid); err == nil && !st.zombie {
			out = append(out, st)
		}
	}
	return out, nil
}

// roots are the members that were not started by another member.
func roots(members []procStat) []process {
	in := map[int]bool{}
	for _, m := range members {
		in[m.Pid] = true
	}
	var out []process
	for _, m := range members {
		if !in[m.parent] {
			out = append(out, m.process)
		}
	}
	return out
}

// kill ends all processes of the service at once and returns when none is left, or with an error when ctx ends.
func (p place) kill(ctx context.Context) error {
	if p.h.cgroup != "" {
		return p.h.killDir(ctx, p.serviceDir())
	}
	return p.killMarked(ctx, serviceVariable, p.record().Session)
}

// killCall ends what is left of a call.
func (p place) killCall(ctx context.Context, session int) error {
	if p.h.cgroup != "" {
		return p.h.killDir(ctx, p.callDir())
	}
	return p.killMarked(ctx, callVariable, session)
}

// killDir ends what is in a control group. One that is empty already is not touched, so that programs can go on to be
// born in it (see startInside).
func (h *Host) killDir(ctx context.Context, dir string) error {
	if !populated(dir) {
		return nil
	}
	h.fresh.forget(dir)
	return killCgroup(ctx, dir)
}

// populated: there are live processes in a control group or below it; also if that can't be told.
func populated(dir string) bool {
	fd, err := unix.Open(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	defer unix.Close(fd)
	var b [256]byte
	n, err := unix.Pread(fd, b[:], 0)
	if err != nil {
		return !errors.Is(err, unix.ENODEV)
	}
	return !bytes.Contains(b[:n], []byte("populated 0"))
}

func (p place) killMarked(ctx context.Context, variable string, session int) error {
	for {
		left, err := p.marked(variable, session)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, m := range left {
			if err := m.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		for _, m := range left {
			if err := m.waitGone(ctx); err != nil {
				return err
			}
		}
	}
}

func killCgroup(ctx context.Context, dir string) error {
	if err := writeCgroup(dir, "cgroup.kill", "1"); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
		// A kernel before 5.14: one by one, until no new ones appear.
		return killOneByOne(ctx, dir)
	}
	return waitEmpty(ctx, dir)
}

func killOneByOne(ctx context.Context, dir string) error {
	for {
		members, err := cgroupMembers(dir)
		if err != nil || len(members) == 0 {
			return err
		}
		for _, m := range members {
			if err := m.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		for _, m := range members {
			if err := m.waitGone(ctx); err != nil {
				return err
			}
		}
	}
}

func writeCgroup(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// waitEmpty waits until no process is left in a control group or below it. The kernel wakes it.
func waitEmpty(ctx context.Context, dir string) error {
	fd, err := unix.Open(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer unix.Close(fd)
	for {
		var b [256]byte
		n, err := unix.Pread(fd, b[:], 0)
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if bytes.Contains(b[:n], []byte("populated 0")) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("processes in %s are still there: %w", dir, ctx.Err())
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, pollTime(ctx)); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// pollTime bounds a poll so that the end of ctx is noticed.
func pollTime(ctx context.Context) int {
	const atMost = 100 * time.Millisecond
	left := atMost
	if end, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(end))
	}
	return max(1, int(left.Milliseconds()))
}

// waitGone waits until the process has ended.
func (p process) waitGone(ctx context.Context) error {
	fd, err := p.open()
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, pollTime(ctx))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("process %d is still there: %w", p.Pid, ctx.Err())
		}
	}
}

// findCgroup returns the directory of the control group below which groups get theirs, made and writable; empty with
// the reason if this machine has none.
func findCgroup(node, root string) (string, string) {
	if root == "" {
		own, err := ownCgroup()
		if err != nil {
			return "", err.Error()
		}
		root = own
	}
	dir := filepath.Join(root, "holdfast-"+fileName(node))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Sprintf("control groups can't be made: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return "", fmt.Sprintf("%s is not a writable control group of version 2: %v", dir, err)
	}
	f.Close()
	return dir, ""
}

// ownCgroup is the directory of this process's control group of version 2.
func ownCgroup() (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	where := ""
	for _, line := range strings.Split(string(own), "\n") {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			where = p
		}
	}
	if where == "" {
		return "", errors.New("this process is in no control group of version 2")
	}
	return cgroupDir(where)
}
