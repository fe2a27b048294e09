package lab

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
)

// NodeState is what a node of a lab is, as a machine.
type NodeState string

const (
	// Off: killed, or not started.
	Off NodeState = "off"
	// Running: its first process is alive.
	Running NodeState = "running"
	// Paused: all of its processes are stopped.
	Paused NodeState = "paused"
)

const bootLimit = 20 * time.Second

// State of a node.
func (l *Lab) State(name string) (NodeState, error) {
	p, r, err := l.rec.machine(name)
	if err != nil {
		return "", err
	}
	return l.state(p, r), nil
}

func (l *Lab) state(p *nodePlan, r *nodeRecord) NodeState {
	if !r.Init.alive() {
		return Off
	}
	if p.Cgroup != "" {
		if frozen, _ := cgroup(p.Cgroup).event("frozen"); frozen {
			return Paused
		}
	} else if st, err := readStat(r.Init.PID); err == nil && st.state == 'T' {
		return Paused
	}
	return Running
}

// boot starts a node that is off: fresh devices, an empty run directory, the
// state that it had. It records the result in l.rec; the caller saves.
func (l *Lab) boot(name string) error {
	p, r, err := l.rec.machine(name)
	if err != nil {
		return err
	}
	if err := l.powerOff(p, r); err != nil { // leftovers of the last boot
		return err
	}
	if err := os.MkdirAll(p.StateDir(), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(p.RunDir()); err != nil {
		return err
	}
	spec := l.bootSpec(p)
	specFile := filepath.Join(p.Dir, "boot.json")
	if err := spec.write(specFile); err != nil {
		return err
	}
	ready, said, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer said.Close()
	cmd := &exec.Cmd{Path: l.rec.Binary, Args: []string{"holdfast", "lab", initCommand, specFile}, Dir: "/",
		Env: spec.Env, ExtraFiles: []*os.File{said}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	start := cmd.Start
	if p.Netns != "" {
		if err := cgroup(p.Cgroup).make(); err != nil {
			return err
		}
		if err := plugIn(&l.rec.Plan, p.Netns, p.Ports); err != nil {
			return err
		}
		dir, err := os.Open(p.Cgroup)
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC
		cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWCGROUP // in the child, where the group is its own already
		start = func() error { return startInNetns(p.Netns, cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	said.Close()
	go func() { _ = cmd.Wait() }() // reaps it if it ends before this process does
	if r.Init, err = processOf(cmd.Process.Pid); err != nil {
		return fmt.Errorf("its first process has ended: %w; see %s", err, p.LogFile())
	}
	r.Boots++
	if err := awaitReady(ready, bootLimit); err != nil {
		return fmt.Errorf("%w; see %s", err, p.LogFile())
	}
	if p.Netns != "" {
		return os.Symlink(fmt.Sprintf("/proc/%d/root/run/holdfast", r.Init.PID), p.RunDir())
	}
	return nil
}

func (l *Lab) bootSpec(p *nodePlan) *bootSpec {
	s := &bootSpec{Node: p.Name, Mode: l.Mode(), LabDir: l.Dir(), StateDir: p.StateDir(), RunDir: p.RunDir(), LogFile: p.LogFile()}
	state := s.StateDir
	if s.Mode == Namespaces {
		s.StateMount, s.RunDir = stateMount, "/run/holdfast"
		state = s.StateMount
	}
	s.Command = l.rec.Command
	switch {
	case len(s.Command) > 0:
	case p.Arbiter.IsValid():
		s.Command = []string{l.rec.Binary, "arbiter", "serve", "--dir", p.StateDir()}
	default:
		s.Command = []string{l.rec.Binary, "guard", "--state-dir", state, "--run-dir", s.RunDir}
	}
	if !p.Arbiter.IsValid() {
		for _, d := range l.rec.Plan.LockDisks {
			s.LockDisks = append(s.LockDisks, d.Path)
		}
	}
	s.Env = []string{"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/sbin:/usr/bin:/sbin:/bin"), "HOME=/", marker(l.Name(), p.Name)}
	return s
}

// powerOff ends all that a node runs and takes its devices away.
func (l *Lab) powerOff(p *nodePlan, r *nodeRecord) error {
	var errs []error
	if p.Netns != "" {
		errs = append(errs, cgroup(p.Cgroup).remove(), unplug(&l.rec.Plan, p.Netns, p.Ports))
	} else {
		errs = append(errs, l.killPlain(p, r))
	}
	*r = nodeRecord{Boots: r.Boots}
	return errors.Join(errs...)
}

// killPlain ends a loopback node: the tree of its first process, then orphans.
func (l *Lab) killPlain(p *nodePlan, r *nodeRecord) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		if r.Init.alive() {
			signalTree(r.Init, unix.SIGKILL)
		}
		left := marked(append(serviceMarkers(p), marker(l.Name(), p.Name))...)
		if len(left) == 0 && !r.Init.alive() {
			return nil
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of node %s do not end", left, p.Name)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Kill cuts the node's network and then kills all that it runs, as a machine
// that loses power: nobody hears of it. What it had in memory is gone, its
// devices too. It returns the time (CLOCK_MONOTONIC) just before the cut.
func (l *Lab) Kill(name string) (time.Duration, error) {
	var at time.Duration
	err := l.change(func() error {
		p, r, err := l.rec.machine(name)
		if err != nil {
			return err
		}
		at = monotonic()
		if p.Netns == "" {
			return l.killPlain(p, r)
		}
		if _, err := os.Stat(netnsPath(p.Netns)); errors.Is(err, fs.ErrNotExist) {
			return nil // off already
		}
		if err := setPorts(&l.rec.Plan, p, allLinks(p), false); err != nil {
			return err
		}
		if err := cgroup(p.Cgroup).kill(); err != nil {
			return fmt.Errorf("kill node %s: %w", name, err)
		}
		return l.powerOff(p, r)
	})
	return at, err
}

func allLinks(p *nodePlan) []int {
	var out []int
	for i := range p.Ports {
		out = append(out, i)
	}
	return out
}

// Start boots a node that is off. On one that runs it starts guard, if that
// was told to stop.
func (l *Lab) Start(name string) error {
	return l.change(func() error {
		p, r, err := l.rec.machine(name)
		if err != nil {
			return err
		}
		switch l.state(p, r) {
		case Running:
			return unix.Kill(r.Init.PID, unix.SIGHUP)
		case Paused:
			return fmt.Errorf("node %s is paused: holdfast lab resume %s", name, name)
		}
		if err := l.boot(name); err != nil {
			return fmt.Errorf("start node %s: %w", name, err)
		}
		return nil
	})
}

// StartAll boots all nodes that are off, at once.
func (l *Lab) StartAll() error {
	return l.change(func() error { return l.bootAll() })
}

// bootAll boots all nodes and arbiters that are off, side by side.
func (l *Lab) bootAll() error {
	records := l.rec.records()
	errs := make([]error, len(records))
	var boots sync.WaitGroup
	for i, name := range l.machineNames() {
		if records[i].Init.alive() {
			continue
		}
		boots.Go(func() {
			if err := l.boot(name); err != nil {
				errs[i] = fmt.Errorf("start node %s: %w", name, err)
			}
		})
	}
	boots.Wait()
	return errors.Join(errs...)
}

// Pause stops every process of a node where it is, and its network too, as
// when a machine is paused: its kernel answers nobody. With answering it does:
// only what runs on it hangs.
func (l *Lab) Pause(name string, answering bool) error {
	return l.paused(name, func(p *nodePlan, r *nodeRecord) error {
		if p.Cgroup == "" {
			signalTree(r.Init, unix.SIGSTOP)
			return nil
		}
		r.Silent = !answering
		return errors.Join(setRules(&l.rec.Plan, p, r), cgroup(p.Cgroup).freeze(true))
	})
}

// Resume lets a paused node go on.
func (l *Lab) Resume(name string) error {
	return l.paused(name, func(p *nodePlan, r *nodeRecord) error {
		if p.Cgroup == "" {
			signalTree(r.Init, unix.SIGCONT)
			return nil
		}
		r.Silent = false
		return errors.Join(setRules(&l.rec.Plan, p, r), cgroup(p.Cgroup).freeze(false))
	})
}

func (l *Lab) paused(name string, f func(*nodePlan, *nodeRecord) error) error {
	return l.change(func() error {
		p, r, err := l.rec.machine(name)
		if err != nil {
			return err
		}
		if l.state(p, r) == Off {
			return fmt.Errorf("node %s is off: holdfast lab start %s", name, name)
		}
		return f(p, r)
	})
}

// Command prepares a command that runs on a node. Start it with StartOn.
func (l *Lab) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = time.Second
	return cmd
}

// StartOn starts a command on a running node: in its namespaces, control
// group and, if cmd has none, its environment.
func (l *Lab) StartOn(name string, cmd *exec.Cmd) error {
	if err := l.Reload(); err != nil {
		return err
	}
	p, r, err := l.rec.machine(name)
	if err != nil {
		return err
	}
	switch l.state(p, r) {
	case Off:
		return fmt.Errorf("node %s is off: holdfast lab start %s", name, name)
	case Paused:
		return fmt.Errorf("node %s is paused: holdfast lab resume %s", name, name)
	}
	if cmd.Env == nil {
		// The caller's may be of another node.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, apiVariable+"=") })
		cmd.Env = append(cmd.Env, marker(l.Name(), name))
	}
	if p.Netns == "" {
		cmd.Env = append(cmd.Env, apiVariable+"="+apiAddress(p))
		return cmd.Start()
	}
	dir, err := os.Open(p.Cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	return startInProcess(r.Init.PID, cmd.Start)
}

// Output runs a command on a node and returns what it wrote.
func (l *Lab) Output(ctx context.Context, name string, argv ...string) ([]byte, error) {
	cmd := l.Command(ctx, argv...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := l.StartOn(name, cmd); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("%v on %s: %w: %s", argv, name, err, out.Bytes())
	}
	return out.Bytes(), nil
}
