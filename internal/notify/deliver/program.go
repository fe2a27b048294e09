//go:build linux

package deliver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	programTimeout = 30 * time.Second
	// maxOutput bounds what is kept of a program's output, in bytes.
	maxOutput = 4 << 10
	// killTime is how long the end of what was killed is waited for.
	killTime = 2 * time.Second
	// markVariable is in the environment of all that one run has started.
	markVariable = "HOLDFAST_NOTIFICATION"
)

type program struct{ *v1.ProgramNotifier }

func (p program) name() (way, to string) { return "program", p.GetCommand() }

func (p program) check() error {
	argv, err := words(p.GetCommand())
	switch {
	case err != nil:
		return err
	case len(argv) == 0:
		return errors.New("no program is named")
	case !filepath.IsAbs(argv[0]):
		return fmt.Errorf("%q is not an absolute path: no search path and no shell is used", argv[0])
	}
	info, err := os.Stat(argv[0])
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || unix.Access(argv[0], unix.X_OK) != nil:
		return fmt.Errorf("%s is no program that can be run", argv[0])
	}
	return nil
}

func (p program) send(ctx context.Context, notifier string, m *Message, _ *[]string) error {
	if err := p.check(); err != nil {
		return err
	}
	argv, _ := words(p.GetCommand())
	timeout := cmp.Or(p.GetTimeout().AsDuration(), programTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	mark := m.ID() + "/" + rand.Text()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(append(m.JSON(notifier), '\n'))
	said := &tail{}
	cmd.Stdout, cmd.Stderr = said, said
	// Nothing of the own environment: it may hold secrets of others.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/", markVariable + "=" + mark}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = killTime
	if err := cmd.Start(); err != nil {
		return err
	}
	// What it has left behind is looked for while its session still has its number (D4).
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	killAll(cmd.Process.Pid, mark)
	err := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return fmt.Errorf("%s did not end within %v and was killed%s", argv[0], timeout, said)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it said that it had done it; what kept its output open is gone
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return fmt.Errorf("%s ended with status %d%s", argv[0], exit.ExitCode(), said)
	case err != nil:
		return fmt.Errorf("%s: %w%s", argv[0], err, said)
	}
	return nil
}

// killAll of a run: those of its session, and those that have left it and still bear its mark.
func killAll(session int, mark string) {
	for end := time.Now().Add(killTime); time.Now().Before(end); {
		left := false
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == session || !belongs(pid, session, mark) {
				continue
			}
			if unix.Kill(pid, unix.SIGKILL) == nil {
				left = true
			}
		}
		if !left {
			return
		}
	}
}

// belongs says whether a live process is part of a run.
func belongs(pid, session int, mark string) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// "pid (name) state parent group session": the name may hold anything.
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	f := strings.Fields(string(rest))
	if !ok || len(f) < 4 || f[0] == "Z" || f[0] == "X" {
		return false
	}
	if f[3] == strconv.Itoa(session) {
		return true
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(env, []byte(markVariable+"="+mark+"\x00"))
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxOutput; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// String is what a program said last, for the end of a message.
func (t *tail) String() string {
	text := []rune(printable(string(t.b)))
	if len(text) == 0 {
		return ""
	}
	const most = 160
	if len(text) > most {
		return ": …" + string(text[len(text)-most:])
	}
	return ": " + string(text)
}

// words splits a command as a shell would, with quotes and backslashes, but expands nothing.
func words(s string) (out []string, err error) {
	var word []rune
	inWord, escaped := false, false
	var quote rune
	for _, r := range s {
		switch {
		case r == 0:
			return nil, errors.New("a command can't hold a zero byte")
		case escaped:
			word, escaped = append(word, r), false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word = append(word, r)
		case r == '\'' || r == '"':
			inWord, quote = true, r
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if inWord {
				out = append(out, string(word))
			}
			word, inWord = nil, false
		default:
			word, inWord = append(word, r), true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("%q ends inside a quote", s)
	}
	if inWord {
		out = append(out, string(word))
	}
	return out, nil
}
