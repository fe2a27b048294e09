package agents

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// gate waits for one line and becomes the program then.
const gate = `read -r _ && exec "$@" </dev/null`

// startInside starts cmd in the control group of the service, or of its calls: the program begins only once it is in
// there, and if this process dies before, it never does. It is born there (clone3) where that works. But kernels of 2025,
// 6.18 for one, kill such a process at its birth if its new group and that of its parent have not been killed equally
// often. So a group that was killed is made anew; careful, and where that is not possible, a shell goes in
// first and becomes the program.
func (p place) startInside(c invocation, service, careful bool) (*child, error) {
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
			c.sys.UseCgroupFD, c.sys.CgroupFD = true, fd
			started, err := spawn(c)
			if err == nil {
				started.direct = true
			}
			return started, err
		}
		p.h.fresh.forget(dir) // somebody has removed it
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("control group for %s: %w", p.resource, err)
	}
	if err := executable(c.argv[0]); err != nil {
		return nil, err
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	c.input = ends[0]
	c.argv = append([]string{"/bin/sh", "-c", gate, "holdfast"}, c.argv...)
	started, err := spawn(c)
	if err != nil {
		return nil, err
	}
	err = writeCgroup(dir, "cgroup.procs", strconv.Itoa(started.pid))
	if err == nil {
		_, err = unix.Write(ends[1], []byte("\n"))
	}
	if err != nil {
		_ = unix.Kill(started.pid, unix.SIGKILL)
		started.abandon()
		return nil, fmt.Errorf("control group for %s: %w", p.resource, err)
	}
	return started, nil
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
	c, err := spawn(invocation{argv: []string{"/bin/sh", "-c", ":"}, dir: "/", input: -1, log: -1, sys: syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}})
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	ws, err := c.wait(ctx, &tailBuffer{})
	if err != nil {
		_ = unix.Kill(c.pid, unix.SIGKILL)
		c.abandon()
		return false
	}
	c.release()
	return ws.Exited() && ws.ExitStatus() == 0
}
