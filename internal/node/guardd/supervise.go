//go:build linux

package guardd

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffMax   = 5 * time.Second
	// A clusterd that ran for so long is started again at once.
	steadyRun = 10 * time.Second
	// lookAgain is how often guard looks whether a clusterd that it did not start still runs.
	lookAgain = 100 * time.Millisecond
	// At the end clusterd has so long to end by itself if it asked for it, and so long after SIGTERM.
	endAlone = time.Second
	endTerm  = 5 * time.Second
)

// supervisor keeps one clusterd running (D5, D6).
type supervisor struct {
	argv   []string
	runDir string
	log    *slog.Logger
	ended  chan struct{}
	kicked chan struct{}
	done   chan struct{}
	once   sync.Once

	mu  sync.Mutex
	cmd *exec.Cmd // running, nil: none of ours
}

func newSupervisor(argv []string, runDir string, log *slog.Logger) *supervisor {
	return &supervisor{argv: argv, runDir: runDir, log: log, ended: make(chan struct{}), kicked: make(chan struct{}, 1), done: make(chan struct{})}
}

func (s *supervisor) start() { go s.run() }

// kick: an engine has ended, look now.
func (s *supervisor) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

func (s *supervisor) run() {
	defer close(s.done)
	// Children inherit the scheduling of the thread that makes them (D5). The thread
	// is never unlocked: it ends with this goroutine.
	runtime.LockOSThread()
	if err := setScheduler(0, schedOther, 0); err != nil {
		s.log.Error("clusterd would run with guard's priority", "error", err)
	}
	var backoff time.Duration
	for {
		if s.runsAlready() {
			s.wait(lookAgain)
		} else {
			begin := time.Now()
			err := s.runOnce()
			if time.Since(begin) >= steadyRun {
				backoff = 0
			}
			select {
			case <-s.ended:
				return
			default:
			}
			s.log.Warn("clusterd has ended and is started again", "error", err, "after", backoff)
			s.wait(backoff)
			backoff = min(max(2*backoff, backoffFirst), backoffMax)
		}
		select {
		case <-s.ended:
			return
		default:
		}
	}
}

func (s *supervisor) wait(d time.Duration) {
	select {
	case <-s.ended:
	case <-s.kicked:
	case <-time.After(d):
	}
}

// runsAlready says whether a clusterd lives that an earlier guard has started.
func (s *supervisor) runsAlready() bool {
	f, err := os.Open(filepath.Join(s.runDir, guardclient.LockName))
	if err != nil {
		return false
	}
	defer f.Close() // this unlocks it
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// runOnce runs clusterd once, from start to end.
func (s *supervisor) runOnce() error {
	var limit unix.Rlimit
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if dir, err := engineCgroup(); err == nil {
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := s.begin(cmd); err != nil {
		return fmt.Errorf("start clusterd: %w", err)
	}
	cmd = s.running()
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0o644)
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil && limit.Cur == unix.RLIM_INFINITY {
		usual := unix.Rlimit{Cur: 8 << 20, Max: limit.Max}
		_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_MEMLOCK, &usual, nil)
	}
	s.log.Info("clusterd started", "pid", cmd.Process.Pid)
	err := cmd.Wait()
	s.mu.Lock()
	s.cmd = nil
	s.mu.Unlock()
	return err
}

// begin starts cmd, unless guard ends.
func (s *supervisor) begin(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return errors.New("guard ends")
	default:
	}
	err := cmd.Start()
	if err != nil && cmd.SysProcAttr.UseCgroupFD {
		again := exec.Command(s.argv[0], s.argv[1:]...)
		again.Stdout, again.Stderr, again.SysProcAttr = cmd.Stdout, cmd.Stderr, &syscall.SysProcAttr{Setsid: true}
		cmd = again
		err = cmd.Start()
	}
	if err == nil {
		s.cmd = cmd
	}
	return err
}

func (s *supervisor) running() *exec.Cmd {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd
}

// end clusterd with guard: it has stopped what it ran, or guard has. Adopted is
// the pidfd of one that this guard did not start; -1: none. Alone is how long it may take
// to end by itself.
func (s *supervisor) end(adopted int, alone time.Duration) {
	s.once.Do(func() { close(s.ended) })
	pidfd := adopted
	if adopted >= 0 {
		defer unix.Close(adopted)
	}
	s.mu.Lock()
	if s.cmd != nil {
		if fd, err := unix.PidfdOpen(s.cmd.Process.Pid, 0); err == nil {
			pidfd = fd
			defer unix.Close(fd)
		}
	}
	s.mu.Unlock()
	if pidfd >= 0 {
		for _, step := range []struct {
			signal unix.Signal
			limit  time.Duration
		}{{0, alone}, {unix.SIGTERM, endTerm}, {unix.SIGKILL, endTerm}} {
			if step.signal != 0 {
				_ = unix.PidfdSendSignal(pidfd, step.signal, nil, 0)
			}
			if awaitEnd(pidfd, step.limit) {
				break
			}
		}
	}
	<-s.done
}

func awaitEnd(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(left/time.Millisecond)+1); n > 0 || err != nil && err != unix.EINTR {
			return true
		}
	}
}

// engineCgroup is a control group for clusterd below guard's own, in the unified
// hierarchy. There is none if guard itself has none.
func engineCgroup() (*os.File, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	path := ""
	for line := range strings.Lines(string(own)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = rest
		}
	}
	root, mount := cgroupMount()
	below, err := filepath.Rel(root, path)
	if path == "" || path == "/" || mount == "" || err != nil || below == ".." || strings.HasPrefix(below, "../") {
		return nil, errors.New("guardd: no control group of its own")
	}
	dir := filepath.Join(mount, below, "clusterd")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.Open(dir)
}

// cgroupMount is where the unified hierarchy is mounted, and from which of its
// directories on; empty: nowhere.
func cgroupMount() (root, mount string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[3], fields[4]
		}
	}
	return "", ""
}
