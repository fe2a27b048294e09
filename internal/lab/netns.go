package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Network namespaces are named as iproute2 names them, so that
// `ip netns exec hf-lab-n1 …` works on a lab.
const netnsDir = "/run/netns"

func netnsPath(name string) string { return filepath.Join(netnsDir, name) }

// inThread runs f on an OS thread of its own that ends afterwards, so that f
// may change the thread's namespaces.
func inThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if unix.Gettid() != os.Getpid() {
			done <- f()
			return
		}
		// The first thread can't end. While it is held here, another goroutine gets another one.
		inner := make(chan error, 1)
		go func() {
			runtime.LockOSThread()
			inner <- f()
		}()
		err := <-inner
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// makeNetns makes an empty network namespace with this name; its loopback
// device is still down.
func makeNetns(name string) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	path := netnsPath(name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	f.Close()
	err = inThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return nil
}

// removeNetns removes the name, and the namespace with it unless a process
// still lives there. It is fine if there is none.
func removeNetns(name string) error {
	path := netnsPath(name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// netnsesOf lists the namespaces of a lab that exist, by their names alone:
// what is left when nothing else is known about it.
func netnsesOf(lab string) []string {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), netnsName(lab, "")) {
			out = append(out, e.Name())
		}
	}
	sort.Strings(out)
	return out
}

// startInNetns starts a process whose network is the named namespace.
func startInNetns(name string, start func() error) error {
	fd, err := unix.Open(netnsPath(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer unix.Close(fd)
	return inThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return start()
	})
}

// nodeNamespaces in the order in which they must be entered: the mount
// namespace last, because the others are opened through /proc.
var nodeNamespaces = []struct {
	file string
	flag int
}{
	{"cgroup", unix.CLONE_NEWCGROUP}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS},
	{"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS},
}

// startInProcess starts a process in all namespaces of process pid.
func startInProcess(pid int, start func() error) error {
	return inThread(func() error {
		fds := make([]int, len(nodeNamespaces))
		for i, n := range nodeNamespaces {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, n.file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("namespaces of process %d: %w", pid, err)
			}
			defer unix.Close(fd)
			fds[i] = fd
		}
		// A thread that shares its file system view can't change it.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		for i, n := range nodeNamespaces {
			if err := unix.Setns(fds[i], n.flag); err != nil {
				return fmt.Errorf("enter %s namespace of process %d: %w", n.file, pid, err)
			}
		}
		return start()
	})
}
