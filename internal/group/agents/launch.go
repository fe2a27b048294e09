package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tailSize is how much of a program's output is kept for messages.
	tailSize = 4 << 10
	// logSize is how long the log of a service may get before its older half goes.
	logSize = 1 << 20
	// killTime is how long the end of a killed program is waited for.
	killTime = 5 * time.Second
)

// launch is a program to be started for a resource.
type launch struct {
	argv    []string
	dir     string
	user    string
	env     []string
	service bool // in the service's control group, its output in the service's log
	keep    bool // of a service: what a start leaves that failed is for clean
	nice    int
	output  int // so much of what it prints is kept; 0: tailSize
}

// start runs l. The returned command has to be waited for, or released. direct: it was born in its control group.
func (p place) start(l launch, output io.Writer, careful bool) (cmd *exec.Cmd, direct bool, err error) {
	cmd = exec.Command(l.argv[0], l.argv[1:]...)
	cmd.Dir = l.dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.WaitDelay = 200 * time.Millisecond
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	home := "/"
	name := "root"
	if l.user != "" {
		cred, u, err := credential(l.user)
		if err != nil {
			return nil, false, err
		}
		name, home = u.Username, u.HomeDir
		if os.Getuid() == 0 || u.Uid != strconv.Itoa(os.Getuid()) {
			cmd.SysProcAttr.Credential = cred
		}
	} else if u, err := user.Current(); err == nil {
		name, home = u.Username, u.HomeDir
	}
	mark := callVariable
	if l.service {
		mark = serviceVariable
	}
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"HOME=" + home, "USER=" + name, "LOGNAME=" + name, "SHELL=/bin/sh",
		"HOLDFAST_NODE=" + p.h.node, "HOLDFAST_GROUP=" + p.group, "HOLDFAST_RESOURCE=" + p.resource, mark + "=" + p.mark(),
	}, l.env...)
	if l.service {
		log, err := p.openLog()
		if err != nil {
			return nil, false, err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
	} else {
		cmd.Stdout, cmd.Stderr = output, output
	}
	if p.h.cgroup == "" {
		err = cmd.Start()
	} else {
		direct, err = p.startInside(cmd, l.service, careful)
	}
	if err != nil {
		return nil, false, inWords(l.argv[0], err)
	}
	if !p.h.ordinary {
		ordinary(cmd.Process.Pid)
	}
	if l.nice != 0 {
		_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, l.nice) // failing means that it has ended already
	}
	if l.service && p.h.cgroup == "" {
		p.h.changed(p.group)
	}
	return cmd, direct, nil
}

// inWords says why a program could not be started, and what to do.
func inWords(program string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, serr := os.Stat(program); serr == nil {
			return fmt.Errorf("%s can't be run: the interpreter that its first line names does not exist on this node", program)
		}
		return fmt.Errorf("%s does not exist on this node", program)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("%s can't be run: it is neither a program for this machine nor a script with an interpreter in its first line (#!)", program)
	case errors.Is(err, unix.ETXTBSY):
		return fmt.Errorf("%s can't be run: it is being written to (text file busy)", program)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s can't be run: permission denied; is it an executable file?", program)
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("%s can't be run: its arguments and attributes are too long for the kernel", program)
	}
	return err
}

// gate waits for one line and becomes the program then.
const gate = `read -r _ && exec "$@" </dev/null`

// startInside starts cmd in the control group of the service, or of its calls: the program begins only once it is in
// there, and if this process dies before, it never does. It is born there (clone3) where that works. But kernels of 2025,
// 6.18 for one, kill such a process at its birth if its new group and that of its parent have not been killed equally
// often. So a group that was killed is made anew; careful, and where that is not possible, a shell goes in
// first and becomes the program.
func (p place) startInside(cmd *exec.Cmd, service, careful bool) (direct bool, err error) {
	dir := p.callDir()
	if service {
		dir = p.serviceDir()
	}
	p.h.dirs.RLock()
	defer p.h.dirs.RUnlock()
	if p.h.direct && !careful && p.h.fresh.ensure(dir, service) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
			return true, cmd.Start()
		}
		p.h.fresh.forget(dir) // somebody has removed it
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("control group for %s: %w", p.resource, err)
	}
	if err := executable(cmd.Path); err != nil {
		return false, err
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer theirs.Close()
	defer ours.Close()
	cmd.Stdin = theirs
	cmd.Args = append([]string{"/bin/sh", "-c", gate, "holdfast"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	if err := cmd.Start(); err != nil {
		return false, err
	}
	err = writeCgroup(dir, "cgroup.procs", strconv.Itoa(cmd.Process.Pid))
	if err == nil {
		_, err = ours.WriteString("\n")
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return false, fmt.Errorf("control group for %s: %w", p.resource, err)
	}
	return false, nil
}

// freshDirs are control groups of this host that nobody has killed since it made them, as far as it knows.
type freshDirs struct {
	mu   sync.Mutex
	dirs map[string]bool
}

// ensure makes dir unless it is fresh already; again: in any case. False: something is in the old one, or it can't be made.
func (f *freshDirs) ensure(dir string, again bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs[dir] && !again {
		return true
	}
	delete(f.dirs, dir)
	removeCgroup(dir)
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, 0o755)
		if err != nil {
			return false
		}
	} else if err != nil {
		return false
	}
	f.dirs[dir] = true
	return true
}

// forget a control group that was killed or removed.
func (f *freshDirs) forget(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dirs, dir)
}

// removeCgroup removes a control group and those below it. What has processes in it stays.
func removeCgroup(dir string) {
	if err := unix.Rmdir(dir); !errors.Is(err, unix.EBUSY) {
		return
	}
	below, err := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	if err != nil || len(below) == 0 {
		return
	}
	for _, b := range below {
		removeCgroup(filepath.Dir(b))
	}
	_ = unix.Rmdir(dir)
}

// bornInside finds out whether programs can be born in a control group here.
func bornInside(root string) bool {
	dir := filepath.Join(root, ".probe")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return false
	}
	defer unix.Rmdir(dir)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	cmd := exec.Command("/bin/sh", "-c", ":")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	return cmd.Run() == nil
}

func executable(name string) error {
	st, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not an executable file", name)
	}
	return nil
}

// isOrdinary: what this process starts has by inheritance what ordinary would give it.
func isOrdinary() bool {
	attr, err1 := unix.SchedGetAttr(0, 0)
	adj, err2 := os.ReadFile("/proc/self/oom_score_adj")
	return errors.Join(err1, err2) == nil && attr.Policy == unix.SCHED_NORMAL && attr.Nice == 0 && strings.TrimSpace(string(adj)) == "0"
}

// ordinary gives a process the default scheduling and no protection from the out-of-memory killer, whatever this
// process has. Failing means that it had them already, or that nobody may change them.
func ordinary(pid int) {
	_ = unix.SchedSetAttr(pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0)
}

func credential(name string) (*syscall.Credential, *user.User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, nil, fmt.Errorf("user %s does not exist on this node", name)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	ids, err3 := u.GroupIds()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, nil, fmt.Errorf("user %s: %w", name, err)
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, id := range ids {
		if g, err := strconv.ParseUint(id, 10, 32); err == nil {
			cred.Groups = append(cred.Groups, uint32(g))
		}
	}
	return cred, u, nil
}

// outcome of a program.
type outcome struct {
	status int            // exit status; -1: it did not exit by itself
	signal syscall.Signal // that killed it
	how    string         // "exited with status 3", "was killed by signal 9"
	output string         // the end of what it printed
}

// run runs a program to its end. What it leaves behind is killed, unless it is a service's start program that succeeded.
// err: it could not be started, or ctx ended, and then its whole tree was killed.
func (p place) run(ctx context.Context, l launch) (outcome, error) {
	o, direct, err := p.runOnce(ctx, l, false)
	if direct && err == nil && o.signal == syscall.SIGKILL && !l.service {
		// Not by this process. Most likely guard has killed its control group before (see startInside). A service never comes
		// here: its group is always new, and if guard kills it, that is meant.
		p.h.fresh.forget(p.callDir())
		o, _, err = p.runOnce(ctx, l, true)
	}
	return o, err
}

func (p place) runOnce(ctx context.Context, l launch, careful bool) (o outcome, direct bool, err error) {
	o.status = -1
	tail := &tailBuffer{size: cmp.Or(l.output, tailSize)}
	from := int64(0)
	if l.service {
		from = p.logEnd()
	}
	cmd, direct, err := p.start(l, tail, careful)
	if err != nil {
		return o, false, err
	}
	pid := cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	over, evidence := false, ""
	select {
	case err = <-ended:
		ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
		o.status, o.how = cmd.ProcessState.ExitCode(), describeExit(ws)
		if ws.Signaled() {
			o.signal = ws.Signal()
		}
	case <-ctx.Done():
		over = true
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			evidence = p.evidence(l, pid)
		}
	}
	if !l.service || o.status != 0 && !l.keep || over {
		after := p.killCall
		if l.service {
			after = func(ctx context.Context, _ int) error { return p.kill(ctx) }
		}
		killing, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		if kerr := after(killing, pid); kerr != nil {
			return o, direct, fmt.Errorf("%s: %w%s", l.argv[0], kerr, evidence)
		}
	}
	if over {
		select {
		case <-ended: // and with it whoever could still write
			o.output = tail.String()
		case <-time.After(killTime):
		}
		if l.service {
			o.output = p.logSince(from)
		}
		if o.output != "" {
			evidence += "; its last output: " + lastLines(o.output)
		}
		return o, direct, fmt.Errorf("%s: %w%s", l.argv[0], ctx.Err(), evidence)
	}
	o.output = tail.String()
	if l.service {
		o.output = p.logSince(from)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return o, direct, err
	}
	return o, direct, nil
}

func describeExit(ws syscall.WaitStatus) string {
	switch {
	case ws.Signaled():
		return fmt.Sprintf("was killed by signal %d", ws.Signal())
	case ws.Exited():
		return fmt.Sprintf("exited with status %d", ws.ExitStatus())
	}
	return "has ended"
}

// failure puts an unsuccessful program into words.
func (o outcome) failure(l launch) error {
	msg := fmt.Sprintf("%s %s", l.argv[0], o.how)
	if o.output != "" {
		msg += ": " + o.output
	}
	return errors.New(msg)
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	size int
	b    []byte
}

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.b = append(t.b, b[max(0, len(b)-t.size):]...)
	if len(t.b) > 2*t.size {
		t.b = append(t.b[:0], t.b[len(t.b)-t.size:]...)
	}
	return len(b), nil
}

func (t *tailBuffer) String() string { return printable(t.b[max(0, len(t.b)-t.size):]) }

func printable(b []byte) string {
	return strings.TrimSpace(strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, string(b)), "?"))
}

func (p place) logFile() string {
	return filepath.Join(p.h.runDir, "log", fileName(p.group)+"."+fileName(p.resource)+".log")
}

// openLog opens the service's log for appending: several processes write to it, and trimLog may shorten it meanwhile.
func (p place) openLog() (*os.File, error) {
	p.trimLog()
	return os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

func (p place) logEnd() int64 {
	st, err := os.Stat(p.logFile())
	if err != nil {
		return 0
	}
	return st.Size()
}

// logSince returns the end of what was logged after offset from.
func (p place) logSince(from int64) string {
	f, err := os.Open(p.logFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	if st.Size() < from {
		from = 0
	}
	b := make([]byte, tailSize)
	n, err := f.ReadAt(b, max(from, st.Size()-tailSize))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return printable(b[:n])
}

// trimLog drops the older half of a log that has grown too long. What is written in the same instant may be lost.
func (p place) trimLog() {
	if p.logEnd() <= logSize {
		return
	}
	f, err := os.OpenFile(p.logFile(), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return
	}
	keep := make([]byte, logSize/2)
	n, err := f.ReadAt(keep, st.Size()-int64(len(keep)))
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(keep[:n], 0)
	}
}
