package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A bootSpec is all that lab-init, the first process of a node, has to know.
type bootSpec struct {
	Node string `json:"node"`
	Mode Mode   `json:"mode"`
	// Directory of the lab; stays visible in the node.
	LabDir string `json:"lab_dir"`
	// Where the state is outside and, if it is mounted elsewhere, inside.
	StateDir   string `json:"state_dir"`
	StateMount string `json:"state_mount,omitempty"`
	RunDir     string `json:"run_dir"`
	// Files in whose place it sees a block device of its own.
	LockDisks []string `json:"lock_disks,omitempty"`
	// What to keep running: guard.
	Command []string `json:"command"`
	Env     []string `json:"env"`
	LogFile string   `json:"log_file"`
}

func (b *bootSpec) write(path string) error {
	out, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o600)
}

// readyFD is where lab-init's parent listens: it gets readyWord once the node
// has booted, else what went wrong.
const (
	readyFD   = 3
	readyWord = "ready"
)

// restartPauses are the waits before guard is started again after it ended
// unexpectedly; a run of restartForget resets them.
var restartPauses = []time.Duration{0, 100 * time.Millisecond, time.Second, 5 * time.Second}

const restartForget = 10 * time.Second

// runInit is PID 1 of a node in namespaces mode, and the parent of all that
// the node runs in loopback mode. It makes the node look like a machine of
// its own, keeps guard running and reaps what is orphaned.
//
//   - guard ended with status 0: it was told to stop, and stays stopped.
//   - guard ended otherwise: it is started again.
//   - SIGHUP: start guard if it is stopped.
//   - SIGTERM: pass it on, wait for guard, end.
func runInit(specFile string) (err error) {
	ready := os.NewFile(readyFD, "ready")
	unix.CloseOnExec(readyFD)
	defer func() {
		if err != nil {
			fmt.Fprintln(ready, err)
		}
	}()
	b, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	var spec bootSpec
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("%s: %w", specFile, err)
	}
	log, err := os.OpenFile(spec.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if spec.Mode == Namespaces {
		err = bootMachine(&spec)
	} else {
		// Orphans of this node come to this process, so that it can find them.
		err = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	if err == nil {
		err = os.MkdirAll(spec.RunDir, 0o700)
	}
	if err == nil && spec.Mode == Namespaces {
		if err := attachDisks(spec.LockDisks); err != nil {
			fmt.Fprintf(log, "lab-init: %v\n", err)
		}
	}
	if err != nil {
		fmt.Fprintf(log, "lab-init: %v\n", err)
		return err
	}
	s := &supervisor{spec: &spec, log: log}
	s.begin()
	fmt.Fprint(ready, readyWord)
	ready.Close()
	s.loop()
	return nil
}

// bootMachine mounts what a node has of its own. The process is alone in new
// namespaces already.
func bootMachine(spec *bootSpec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Copies of other namespaces' names would keep those namespaces alive.
	if names, err := os.ReadDir(netnsDir); err == nil {
		for _, n := range names {
			_ = unix.Unmount(netnsPath(n.Name()), unix.MNT_DETACH)
		}
	}
	lab, err := unix.Open(spec.LabDir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", spec.LabDir, err)
	}
	defer unix.Close(lab)
	if err := unix.Mount(spec.StateDir, spec.StateMount, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", spec.StateDir, spec.StateMount, err)
	}
	mounts := []struct{ kind, at, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"cgroup2", "/sys/fs/cgroup", ""}, {"tmpfs", "/run", "mode=755"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, m.options); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	if strings.HasPrefix(spec.LabDir, "/run/") { // hidden by the new /run
		if err := os.MkdirAll(spec.LabDir, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", lab), spec.LabDir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount the lab's directory on %s: %w", spec.LabDir, err)
		}
	}
	// As the service files of a package do: guard locks its memory. Where that is not permitted guard says so.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err := unix.Sethostname([]byte(spec.Node)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return nil
}

// A supervisor keeps one program running and reaps every child.
type supervisor struct {
	spec *bootSpec
	log  *os.File

	pid      int // of the program, 0: not running
	started  time.Time
	failures int // in a row
	retry    *time.Timer
	stopping bool
	signals  chan os.Signal
}

func (s *supervisor) begin() {
	s.signals = make(chan os.Signal, 16)
	signal.Notify(s.signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	s.retry = time.NewTimer(0)
}

func (s *supervisor) loop() {
	for {
		select {
		case <-s.retry.C:
			s.start()
		case sig := <-s.signals:
			switch sig {
			case unix.SIGCHLD:
				s.reap()
			case unix.SIGHUP:
				if s.pid == 0 {
					s.start()
				}
			default:
				s.stopping = true
				if s.pid != 0 {
					_ = unix.Kill(s.pid, unix.SIGTERM)
				}
			}
		}
		if s.stopping && s.pid == 0 {
			return
		}
	}
}

func (s *supervisor) start() {
	if s.pid != 0 || s.stopping || len(s.spec.Command) == 0 {
		return
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		s.ended("can't be started: " + err.Error())
		return
	}
	defer null.Close()
	// Not through os.Process: only reap may wait, or it would lose children to it.
	pid, err := forkExec(s.spec.Command, s.spec.Env, null, s.log)
	if err != nil {
		s.ended(fmt.Sprintf("can't be started: %v", err))
		return
	}
	s.pid, s.started = pid, time.Now()
}

// reap collects every child that has ended.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if pid != s.pid {
			continue
		}
		s.pid = 0
		switch {
		case status.Exited() && status.ExitStatus() == 0:
			s.logf("%s ended as told; holdfast lab start %s starts it again", s.name(), s.spec.Node)
			s.failures = 0
		case status.Signaled():
			s.ended(fmt.Sprintf("was killed by signal %d (%v)", status.Signal(), status.Signal()))
		default:
			s.ended(fmt.Sprintf("ended with status %d", status.ExitStatus()))
		}
	}
}

// ended plans the next start after an unexpected end.
func (s *supervisor) ended(how string) {
	if time.Since(s.started) > restartForget {
		s.failures = 0
	}
	pause := restartPauses[min(s.failures, len(restartPauses)-1)]
	s.failures++
	s.logf("%s %s; starting it again in %v", s.name(), how, pause)
	s.retry.Reset(pause)
}

func (s *supervisor) name() string {
	return strings.Join(s.spec.Command[:min(2, len(s.spec.Command))], " ")
}

func (s *supervisor) logf(format string, args ...any) {
	fmt.Fprintf(s.log, "%s lab-init %s: %s\n", time.Now().Format("15:04:05.000"), s.spec.Node, fmt.Sprintf(format, args...))
}

// awaitReady reads what lab-init says about its boot.
func awaitReady(r *os.File, limit time.Duration) error {
	if err := r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	said, err := io.ReadAll(r)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it has not booted within %v", limit)
	case err != nil:
		return err
	case string(said) == readyWord:
		return nil
	case len(said) == 0:
		return errors.New("its first process has ended")
	}
	return errors.New(strings.TrimSpace(string(said)))
}
