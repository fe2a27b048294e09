//go:build linux

package fence

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	// DefaultTimeout of one run of an agent, and how often it is tried, where a device says nothing.
	DefaultTimeout = 60 * time.Second
	DefaultTries   = 2
	// MinTimeout and MaxTimeout bound what a device may say.
	MinTimeout = time.Second
	MaxTimeout = 10 * time.Minute
	MaxTries   = 10

	// maxOutput bounds what is kept of an agent's output, in bytes.
	maxOutput = 256 << 10
	// maxMessage bounds what of it goes into a message.
	maxMessage = 400
	// afterKill is how long the pipes of a killed agent are waited for.
	afterKill = time.Second
	// metadataTimeout is for an agent that only has to describe itself.
	metadataTimeout = 15 * time.Second
)

// AgentDirs are where agents are looked for that are not named by an absolute path.
var AgentDirs = []string{"/usr/sbin", "/usr/lib/holdfast/fence-agents"}

// Exit statuses of agents: for status 0 means on; for anything else done.
const (
	exitDone = 0
	exitOff  = 2
)

// Power is what an agent says of a machine.
type Power int

const (
	PowerUnknown Power = iota
	PowerOn
	PowerOff
)

func (p Power) String() string { return [...]string{"unknown", "on", "off"}[p] }

// Runner runs agents. Its zero value is ready; it may be used concurrently.
type Runner struct {
	// Dirs to look for agents in, nil: AgentDirs.
	Dirs []string

	mu    sync.Mutex
	known map[string]described
}

type described struct {
	of       fs.FileInfo
	metadata *Metadata
}

// find the program of an agent.
func (r *Runner) find(agent string) (string, error) {
	var candidates []string
	switch {
	case agent == "":
		return "", errors.New("no agent is named")
	case filepath.IsAbs(agent):
		candidates = []string{agent}
	case strings.ContainsRune(agent, '/'):
		return "", fmt.Errorf("agent %q is neither a name nor an absolute path", agent)
	default:
		dirs := r.Dirs
		if dirs == nil {
			dirs = AgentDirs
		}
		for _, dir := range dirs {
			candidates = append(candidates, filepath.Join(dir, agent))
		}
	}
	for _, path := range candidates {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", fmt.Errorf("agent %s: %w", agent, err)
		case !info.Mode().IsRegular() || unix.Access(path, unix.X_OK) != nil:
			return "", fmt.Errorf("agent %s: %s is no program that can be run", agent, path)
		}
		return path, nil
	}
	return "", fmt.Errorf("agent %s is not on this node: there is no %s (Debian: package fence-agents)", agent, strings.Join(candidates, " and no "))
}

// result of one run.
type result struct {
	status int
	stdout []byte
	// What it said, made fit for a message: one line, bounded, without secrets.
	said string
}

// run an agent once. An error means that it has not ended by itself with a status.
func run(ctx context.Context, path string, input []byte, hide []string, timeout time.Duration) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Nothing of the own environment: it may hold secrets of others.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/", "TERM=dumb"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	killGroup := func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Cancel = killGroup
	cmd.WaitDelay = afterKill
	err := cmd.Start()
	if err != nil {
		return result{}, fmt.Errorf("start %s: %w", path, err)
	}
	// What it has left behind goes while its process group still has its number (F4).
	for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = killGroup()
	err = cmd.Wait()
	res := result{stdout: stdout.b, said: message(hide, stderr.b, stdout.b)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return res, fmt.Errorf("it did not end within %v and was killed%s", timeout, quoted(res.said))
	case ctx.Err() != nil:
		return res, ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay):
		return res, fmt.Errorf("it ended, but something that it had started kept its output%s", quoted(res.said))
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		return res, fmt.Errorf("it was ended by a signal (%v)%s", exit, quoted(res.said))
	case errors.As(err, &exit):
		res.status = exit.ExitCode()
	case err != nil:
		return res, err
	}
	return res, nil
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ b []byte }

func (o *bounded) Write(p []byte) (int, error) {
	o.b = append(o.b, p[:min(len(p), maxOutput-len(o.b))]...)
	return len(p), nil
}

// message of an agent's output: the last lines of what it said, standard error first.
func message(hide []string, outputs ...[]byte) string {
	for _, out := range outputs {
		text := strings.ToValidUTF8(string(out), "?")
		for _, secret := range hide {
			text = strings.ReplaceAll(text, secret, "***")
		}
		text = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, text)
		text = strings.Join(strings.Fields(text), " ")
		if text == "" {
			continue
		}
		if cut := len(text) - maxMessage; cut > 0 {
			text = "… " + strings.ToValidUTF8(text[cut:], "")
		}
		return text
	}
	return ""
}

func quoted(said string) string {
	if said == "" {
		return ""
	}
	return ": " + said
}

// Settings of a device as they go to its agent.
func timeoutOf(d *v1.FenceDevice) time.Duration {
	return min(max(cmp.Or(d.GetTimeout().AsDuration(), DefaultTimeout), 10*time.Millisecond), MaxTimeout)
}

func triesOf(d *v1.FenceDevice) int {
	return int(min(cmp.Or(d.GetTries(), DefaultTries), MaxTries))
}

// ActionOf is the action by which a device fences.
func ActionOf(d *v1.FenceDevice) string { return cmp.Or(d.GetAction(), "off") }

// input is what an agent reads, and what of it is secret.
func input(d *v1.FenceDevice, m *Metadata, action, node string) (text []byte, secrets []string, err error) {
	var b bytes.Buffer
	put := func(key, value string) {
		if strings.ContainsAny(key, "=\n\r\x00") || key == "" || strings.ContainsAny(value, "\n\r\x00") {
			err = errors.Join(err, fmt.Errorf("parameter %q or its value holds a character that can't be passed on", key))
			return
		}
		fmt.Fprintf(&b, "%s=%s\n", key, value)
	}
	put("action", action)
	if node != "" {
		if plug, ok := d.GetPlugs()[node]; ok {
			for _, name := range m.plugNames() {
				put(name, plug)
			}
			put("nodename", node)
		}
	}
	for _, key := range sortedKeys(d.GetParameters()) {
		value := d.GetParameters()[key]
		if target, ok := m.secretFrom(key); ok {
			secret, rerr := readSecret(value)
			if rerr != nil {
				err = errors.Join(err, fmt.Errorf("parameter %s: %w", key, rerr))
				continue
			}
			key, value = target, secret
		}
		if isSecret(key) && value != "" {
			secrets = append(secrets, value)
		}
		put(key, value)
	}
	// Longest first: one may be part of another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return b.Bytes(), secrets, err
}

// isSecret says whether the value of a parameter must not be seen.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	if strings.HasSuffix(name, "_file") || strings.HasSuffix(name, "_script") || strings.HasPrefix(name, "identity") {
		return false // names of files
	}
	for _, part := range []string{"passw", "secret", "token", "community", "api_key", "apikey", "private_key"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return name == "pass" || name == "pin"
}

// readSecret is the first line of a file that nobody else can read.
func readSecret(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is no absolute path", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s holds a secret and can be read by others: chmod 600 %s", path, path)
	}
	b := make([]byte, 4096)
	n, err := f.Read(b)
	if n == 0 {
		return "", fmt.Errorf("%s is empty", path)
	}
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("%s: its first line is empty", path)
	}
	return line, nil
}
