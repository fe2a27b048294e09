package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
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
}

// start runs l. The returned command has to be waited for, or released.
func (p place) start(l launch, output io.Writer) (*exec.Cmd, error) {
	cmd := exec.Command(l.argv[0], l.argv[1:]...)
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
			return nil, err
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
			return nil, err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
	} else {
		cmd.Stdout, cmd.Stderr = output, output
	}
	if p.h.cgroup == "" {
		if err := cmd.Start(); err != nil {
			return nil, err
		}
	} else if err := p.startInside(cmd, l.service); err != nil {
		return nil, err
	}
	ordinary(cmd.Process.Pid)
	if l.service && p.h.cgroup == "" {
		p.h.changed(p.group)
	}
	return cmd, nil
}

// gate waits for one line and becomes the program then.
const gate = `read -r _ && exec "$@" </dev/null`

// startInside starts cmd in the control group of the service, or of its calls. The program begins only once it is in
// there; if this process dies before, it never does. (clone3 could start it there directly. But kernels of 2025, 6.18 for
// one, kill such a process at its birth if its new group and that of its parent have not been killed equally often.)
func (p place) startInside(cmd *exec.Cmd, service bool) error {
	dir := p.callDir()
	if service {
		dir = p.serviceDir()
	}
	p.h.dirs.RLock()
	defer p.h.dirs.RUnlock()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("control group for %s: %w", p.resource, err)
	}
	if err := executable(cmd.Path); err != nil {
		return err
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	defer ours.Close()
	cmd.Stdin = theirs
	cmd.Args = append([]string{"/bin/sh", "-c", gate, "holdfast"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	if err := cmd.Start(); err != nil {
		return err
	}
	err = writeCgroup(dir, "cgroup.procs", strconv.Itoa(cmd.Process.Pid))
	if err == nil {
		_, err = ours.WriteString("\n")
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("control group for %s: %w", p.resource, err)
	}
	return nil
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
	status int    // exit status; -1: it did not exit by itself
	how    string // "exited with status 3", "was killed by signal 9"
	output string // the end of what it printed
}

// run runs a program to its end. What it leaves behind is killed, unless it is a service's start program that succeeded.
// err: it could not be started, or ctx ended, and then its whole tree was killed.
func (p place) run(ctx context.Context, l launch) (outcome, error) {
	tail := &tailBuffer{}
	from := p.logEnd()
	cmd, err := p.start(l, tail)
	if err != nil {
		return outcome{status: -1}, err
	}
	pid := cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	o := outcome{status: -1}
	over := false
	select {
	case err = <-ended:
		o.status, o.how = cmd.ProcessState.ExitCode(), describeExit(cmd.ProcessState.Sys().(syscall.WaitStatus))
	case <-ctx.Done():
		over = true
	}
	after := p.killCall
	if l.service {
		after = func(ctx context.Context, _ int) error { return p.kill(ctx) }
	}
	if !l.service || o.status != 0 {
		killing, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		if kerr := after(killing, pid); kerr != nil {
			return o, fmt.Errorf("%s: %w", l.argv[0], kerr)
		}
	}
	if over {
		return o, ctx.Err()
	}
	o.output = tail.String()
	if l.service {
		o.output = p.logSince(from)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return o, err
	}
	return o, nil
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
type tailBuffer struct{ b []byte }

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.b = append(t.b, b[max(0, len(b)-tailSize):]...)
	if len(t.b) > 2*tailSize {
		t.b = append(t.b[:0], t.b[len(t.b)-tailSize:]...)
	}
	return len(b), nil
}

func (t *tailBuffer) String() string { return printable(t.b) }

func printable(b []byte) string {
	b = b[max(0, len(b)-tailSize):]
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
