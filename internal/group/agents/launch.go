package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	keep    bool // of a service: what a start leaves that failed is for clean
	nice    int
	output  int // so much of what it prints is kept; 0: tailSize
}

// start runs l. The returned program has to be waited for and released, or handed over.
func (p place) start(l launch, careful bool) (*child, error) {
	c := invocation{argv: l.argv, dir: cmp.Or(l.dir, "/"), input: -1, log: -1, sys: syscall.SysProcAttr{Setsid: true}}
	home := "/"
	name := "root"
	if l.user != "" {
		cred, u, err := credential(l.user)
		if err != nil {
			return nil, err
		}
		name, home = u.Username, u.HomeDir
		if os.Getuid() == 0 || u.Uid != strconv.Itoa(os.Getuid()) {
			c.sys.Credential = cred
		}
	} else if u, err := user.Current(); err == nil {
		name, home = u.Username, u.HomeDir
	}
	mark := callVariable
	if l.service {
		mark = serviceVariable
	}
	c.env = environment([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"HOME=" + home, "USER=" + name, "LOGNAME=" + name, "SHELL=/bin/sh",
		"HOLDFAST_NODE=" + p.h.node, "HOLDFAST_GROUP=" + p.group, "HOLDFAST_RESOURCE=" + p.resource, mark + "=" + p.mark(),
	}, l.env)
	if l.service {
		log, err := p.openLog()
		if err != nil {
			return nil, err
		}
		defer log.Close()
		c.log = int(log.Fd())
	}
	var started *child
	var err error
	if p.h.cgroup == "" {
		started, err = spawn(c)
	} else {
		started, err = p.startInside(c, l.service, careful)
	}
	if err != nil {
		return nil, inWords(l.argv[0], err)
	}
	if !p.h.ordinary {
		ordinary(started.pid)
	}
	if l.nice != 0 {
		_ = unix.Setpriority(unix.PRIO_PGRP, started.pid, l.nice) // failing means that it has ended already
	}
	if l.service && p.h.cgroup == "" {
		p.h.changed(p.group)
	}
	return started, nil
}

// environment is base with more; of two with one name the later counts.
func environment(base, more []string) []string {
	at := make(map[string]int, len(base)+len(more))
	out := base[:0]
	for _, list := range [][]string{base, more} {
		for _, v := range list {
			name, _, _ := strings.Cut(v, "=")
			if i, twice := at[name]; twice {
				out[i] = v
				continue
			}
			at[name] = len(out)
			out = append(out, v)
		}
	}
	return out
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
	from := int64(0)
	if l.service {
		from = p.logEnd()
	}
	c, err := p.start(l, careful)
	if err != nil {
		return o, false, err
	}
	tail := &tailBuffer{size: cmp.Or(l.output, tailSize)}
	ws, err := c.wait(ctx, tail)
	over := ctx.Err() != nil && err != nil
	evidence := ""
	switch {
	case err == nil:
		o.status, o.how = ws.ExitStatus(), describeExit(ws)
		if ws.Signaled() {
			o.signal = ws.Signal()
		}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		evidence = p.evidence(l, c.pid)
	}
	var kerr error
	if !l.service || o.status != 0 && !l.keep || over {
		killing, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		if l.service {
			kerr = p.kill(killing)
		} else {
			kerr = p.killCall(killing, c.pid)
		}
	}
	if err != nil {
		c.deadline(time.Now().Add(killTime))
		if _, werr := c.ended(); werr != nil {
			c.abandon()
			return o, c.direct, &cutOff{cause: err, text: fmt.Sprintf("%s can't be killed%s", l.argv[0], evidence)}
		}
	}
	c.rest(tail)
	c.release()
	o.output = tail.String()
	if l.service {
		o.output = p.logSince(from)
	}
	switch {
	case over:
		if o.output != "" {
			evidence += "; its last output: " + lastLines(o.output)
		}
		if evidence == "" {
			evidence = "; it was ended"
		}
		err = &cutOff{cause: err, text: l.argv[0] + evidence}
	case err != nil:
		err = fmt.Errorf("%s: %w", l.argv[0], err)
	}
	if kerr != nil {
		err = errors.Join(err, fmt.Errorf("what %s has left can't be ended: %w", l.argv[0], kerr))
	}
	return o, c.direct, err
}

// cutOff is why a program that was ended early has no outcome.
type cutOff struct {
	cause error
	text  string
}

func (c *cutOff) Error() string { return c.text }
func (c *cutOff) Unwrap() error { return c.cause }

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
