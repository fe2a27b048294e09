package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupMount finds where control groups of version 2 are mounted:
// /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1.
func cgroupMount() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		// 36 35 98:0 /root /mount/point options … - type source superoptions
		head, tail, ok := strings.Cut(line, " - ")
		f := strings.Fields(head)
		if ok && len(f) > 4 && strings.HasPrefix(tail, "cgroup2 ") {
			return f[4], nil
		}
	}
	return "", errors.New("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup, or run the lab without root")
}

// A cgroup is the directory of one control group.
type cgroup string

func (c cgroup) write(file, value string) error {
	return os.WriteFile(filepath.Join(string(c), file), []byte(value), 0)
}

func (c cgroup) exists() bool {
	_, err := os.Stat(string(c))
	return err == nil
}

func (c cgroup) make() error { return os.MkdirAll(string(c), 0o755) }

// event reads one line of cgroup.events.
func (c cgroup) event(name string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(string(c), "cgroup.events"))
	if err != nil {
		return false, err
	}
	return bytes.Contains(b, []byte(name+" 1")), nil
}

// await waits until an event has the wanted value: the kernel raises POLLPRI.
func (c cgroup) await(name string, want bool, limit time.Duration) error {
	f, err := os.Open(filepath.Join(string(c), "cgroup.events"))
	if err != nil {
		return err
	}
	defer f.Close()
	deadline := time.Now().Add(limit)
	for {
		var b [256]byte
		n, err := f.ReadAt(b[:], 0)
		if n == 0 && err != nil {
			return err
		}
		if bytes.Contains(b[:n], []byte(name+" 1")) == want {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("%s: %q did not become %v within %v", c, name, want, limit)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// kill ends every process in it and below at once (Linux 5.14), and does not wait.
func (c cgroup) kill() error {
	err := c.write("cgroup.kill", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the group is gone, and with it whoever was in it
	}
	return err
}

func (c cgroup) freeze(frozen bool) error {
	v := "0"
	if frozen {
		v = "1"
	}
	if err := c.write("cgroup.freeze", v); err != nil {
		return err
	}
	return c.await("frozen", frozen, 5*time.Second)
}

// remove kills what is left in it and removes it with all below.
func (c cgroup) remove() error {
	if !c.exists() {
		return nil
	}
	_ = c.write("cgroup.freeze", "0")
	if err := c.kill(); err != nil {
		return err
	}
	if err := c.await("populated", false, 10*time.Second); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var dirs []string
	_ = filepath.WalkDir(string(c), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs) // children before parents
	for _, d := range dirs {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// processes in it and below.
func (c cgroup) processes() []int {
	var out []int
	_ = filepath.WalkDir(string(c), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		s := bufio.NewScanner(bytes.NewReader(b))
		for s.Scan() {
			if pid, err := strconv.Atoi(s.Text()); err == nil {
				out = append(out, pid)
			}
		}
		return nil
	})
	slices.Sort(out)
	return out
}

// cpu is the time that all processes that were ever in it have used.
func (c cgroup) cpu() (time.Duration, error) {
	b, err := os.ReadFile(filepath.Join(string(c), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s tells no CPU time", c)
}
