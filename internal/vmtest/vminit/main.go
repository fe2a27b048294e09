//go:build linux

// Command vminit is the first process of a machine of vmtest: it mounts what tests
// expect, loads the modules in /modules, runs /test, says how that ended, and turns the
// machine off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	status := 1
	if err := prepare(); err != nil {
		fmt.Println("vmtest:", err)
	} else {
		status = test()
	}
	fmt.Printf("vmtest: exit %d\n", status)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func prepare() error {
	var errs []error
	mount := func(kind, dir string) {
		errs = append(errs, os.MkdirAll(dir, 0o755), named(kind, unix.Mount(kind, dir, kind, 0, "")))
	}
	mount("devtmpfs", "/dev")
	mount("proc", "/proc")
	mount("sysfs", "/sys")
	mount("tmpfs", "/tmp")
	mount("tmpfs", "/run")
	mount("cgroup2", "/sys/fs/cgroup")
	modules, err := filepath.Glob("/modules/*.ko")
	errs = append(errs, err)
	slices.Sort(modules)
	for _, path := range modules {
		errs = append(errs, named(path, load(path)))
	}
	if _, err := os.Stat("/sys/kernel/config"); err == nil {
		errs = append(errs, named("configfs", unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, "")))
	}
	out, err := exec.Command("/bin/busybox", "ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("lo: %w: %s", err, out)
	}
	return errors.Join(append(errs, err)...)
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// test runs the test binary and returns its status.
func test() int {
	pattern, err := os.ReadFile("/run-pattern")
	if err != nil {
		fmt.Println("vmtest:", err)
		return 1
	}
	cmd := exec.Command("/test", "-test.v", "-test.count=1", "-test.timeout=3m", "-test.run", strings.TrimSpace(string(pattern)))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	cmd.Env = []string{"PATH=/usr/bin:/bin", "TMPDIR=/tmp", "HOME=/tmp"}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Println("vmtest:", err)
		return 1
	}
	return 0
}
