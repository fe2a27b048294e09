package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A lock disk is a file in the lab's directory. Where the machine has loop
// devices each node sees one of its own there, so that one node can lose the
// disk while others have it. The device is held by the node's first
// process and vanishes with it, however that ends.

// attachDisks puts a loop device in the place of each file, in this process's
// mount namespace. Without loop devices the files stay.
func attachDisks(paths []string) error {
	for _, path := range paths {
		number, err := attachLoop(path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("no loop devices, so that lock disks are plain files: %w", err)
		}
		if err != nil {
			return fmt.Errorf("loop device for %s: %w", path, err)
		}
		if err := unix.Mount(loopPath(number), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", loopPath(number), path, err)
		}
	}
	return nil
}

func loopPath(number int) string { return fmt.Sprintf("/dev/loop%d", number) }

// attachLoop makes a loop device of a file, which lasts as long as this process.
func attachLoop(path string) (int, error) {
	file, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(file)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(control)
	c := unix.LoopConfig{Fd: uint32(file)}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(c.Info.File_name[:len(c.Info.File_name)-1], path)
	for range 50 {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return 0, err
		}
		device, err := unix.Open(loopPath(number), unix.O_RDWR|unix.O_CLOEXEC, 0) // stays open
		if err != nil {
			return 0, err
		}
		if err = unix.IoctlLoopConfigure(device, &c); err == nil {
			return number, nil
		}
		unix.Close(device)
		if !errors.Is(err, unix.EBUSY) { // somebody else was quicker
			return 0, err
		}
	}
	return 0, unix.EBUSY
}

// lockDisk finds a lock disk.
func (p *plan) lockDisk(name string) (diskPlan, bool) {
	i := slices.IndexFunc(p.LockDisks, func(d diskPlan) bool { return d.Name == name })
	if i < 0 {
		return diskPlan{}, false
	}
	return p.LockDisks[i], true
}

// setDisk takes a lock disk from a running node, or gives it back. A disk that was taken has
// no blocks any more: reads and writes fail at once.
func setDisk(p *nodePlan, r *nodeRecord, d diskPlan, there bool) error {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", fmt.Sprint(r.Init.PID), "root", d.Path), &st); err != nil {
		return fmt.Errorf("lock disk %s of node %s: %w", d.Name, p.Name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return refused("lock disk %s is a plain file, which can't be cut from a node: this machine has no loop devices", d.Name)
	}
	f, err := os.Open(loopPath(int(unix.Minor(st.Rdev))))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return err
	}
	info.Sizelimit = 512
	if there {
		info.Sizelimit = 0
	}
	for range 100 {
		if err = unix.IoctlLoopSetStatus64(int(f.Fd()), info); !errors.Is(err, unix.EAGAIN) {
			break
		}
		time.Sleep(time.Millisecond) // it has pages that are just being written
	}
	if err != nil {
		return fmt.Errorf("lock disk %s of node %s: %w", d.Name, p.Name, err)
	}
	return nil
}

// CutDisk takes a lock disk from some nodes, until Heal. It returns the time (CLOCK_MONOTONIC) just before.
func (l *Lab) CutDisk(disk string, nodes ...string) (time.Duration, error) {
	var at time.Duration
	err := l.change(func() error {
		at = monotonic()
		return l.setDisks(disk, nodes, false)
	})
	return at, err
}

// HealDisk gives a lock disk back to all nodes.
func (l *Lab) HealDisk(disk string) error {
	return l.change(func() error { return l.setDisks(disk, l.Nodes(), true) })
}

func (l *Lab) setDisks(disk string, nodes []string, there bool) error {
	d, ok := l.rec.Plan.lockDisk(disk)
	if !ok {
		return absent("lab %s has no lock disk %q", l.Name(), disk)
	}
	for _, name := range nodes {
		p, r, err := l.rec.machine(name)
		if err != nil {
			return err
		}
		switch {
		case p.Arbiter.IsValid():
			return bad("%s is an arbiter, which has no lock disks", name)
		case there && !slices.Contains(r.CutDisks, disk):
			continue
		case l.state(p, r) == Off:
			return refused("node %s is off: holdfast lab start %s", name, name)
		}
		if err := setDisk(p, r, d, there); err != nil {
			return err
		}
		r.CutDisks = slices.DeleteFunc(r.CutDisks, func(n string) bool { return n == disk })
		if !there {
			r.CutDisks = append(r.CutDisks, disk)
		}
	}
	return nil
}
