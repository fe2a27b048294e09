//go:build linux

// Command vmtest runs tests that need a kernel of their own in virtual machines:
// those that talk to disks by persistent reservations, and those that end with a reset of
// the machine. It needs qemu-system-x86_64 (software emulation is enough), apt-get and
// dpkg-deb, and installs nothing: kernel and busybox come from Debian packages that are
// unpacked into a cache, ${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/vm.
//
// A machine is a kernel with an initramfs: internal/vmtest/vminit as its first process, a
// package's test binary built with the tag vm, and kernel modules. Results come over the
// serial console, in lines that begin with "vmtest:".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A machine to boot, and what has to come of it.
type machine struct {
	name string
	// Package and pattern of the tests to run.
	pkg, run string
	// Kernel modules, without what they depend on.
	modules []string
	// Further arguments of qemu.
	qemu []string
	// The machine must end by a reset that the test has announced.
	reset bool
	// What the console must show, besides the results.
	console string
}

var machines = []machine{
	{
		name: "reservations", pkg: "./internal/cluster/fence", run: "^TestVMReservations",
		modules: []string{"target_core_mod", "tcm_loop", "sd_mod"},
	},
	{
		name: "softdog", pkg: "./internal/node/guardd", run: "^TestVMWatchdogOfAKilledGuard$",
		modules: []string{"softdog"}, reset: true, console: "softdog: Initiating system reboot",
	},
	{
		name: "hardware", pkg: "./internal/node/guardd", run: "^TestVMWatchdogAfterAStopThatFails$",
		modules: []string{"i6300esb"}, qemu: []string{"-device", "i6300esb", "-action", "watchdog=reset"}, reset: true,
	},
}

func main() {
	only := flag.String("only", "", "run these machines only (comma-separated)")
	limit := flag.Duration("limit", 10*time.Minute, "for everything together")
	verbose := flag.Bool("v", false, "show the consoles")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("not done within %v", *limit))
	err := runAll(ctx, *only, *verbose)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

func runAll(ctx context.Context, only string, verbose bool) error {
	chosen := slices.Clone(machines)
	if only != "" {
		names := strings.Split(only, ",")
		chosen = slices.DeleteFunc(chosen, func(m machine) bool { return !slices.Contains(names, m.name) })
		if len(chosen) != len(names) {
			var all []string
			for _, m := range machines {
				all = append(all, m.name)
			}
			return fmt.Errorf("-only %s: there are %s", only, strings.Join(all, ", "))
		}
	}
	if _, err := exec.LookPath(qemu); err != nil {
		return fmt.Errorf("%w: apt-get install qemu-system-x86", err)
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	start := time.Now()
	k, err := kernel(ctx, cache)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := build(ctx, work, "init", "./internal/vmtest/vminit"); err != nil {
		return err
	}
	fmt.Printf("kernel %s, %v\n", k.release, time.Since(start).Round(time.Second))
	var failed []error
	for _, m := range chosen {
		start := time.Now()
		err := m.test(ctx, k, work, verbose)
		took := time.Since(start).Round(100 * time.Millisecond)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.name, err))
			fmt.Printf("FAIL %-12s %8s\n", m.name, took)
			continue
		}
		fmt.Printf("ok   %-12s %8s\n", m.name, took)
	}
	return errors.Join(failed...)
}

// cacheDir outside of the tree.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "holdfast", "vm")
	return dir, os.MkdirAll(dir, 0o700)
}

// build a program that needs nothing of the machine that it runs on.
func build(ctx context.Context, work, name, pkg string) error {
	return command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-o", filepath.Join(work, name), pkg)
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), cause(ctx, err), out)
	}
	return nil
}

// cause of an error: that the time was over says more than that something was killed.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// image builds the initramfs of a machine.
func (m *machine) image(ctx context.Context, k *kernelFiles, work string) (string, error) {
	test := filepath.Join(work, m.name+".test")
	if err := command(ctx, nil, "go", "vet", "-tags", "vm", m.pkg); err != nil {
		return "", err
	}
	if err := command(ctx, []string{"CGO_ENABLED=0"}, "go", "test", "-c", "-tags", "vm", "-o", test, m.pkg); err != nil {
		return "", err
	}
	load, err := k.order(m.modules)
	if err != nil {
		return "", err
	}
	path := filepath.Join(work, m.name+".cpio.gz")
	a, err := newArchive(path)
	if err != nil {
		return "", err
	}
	a.file("init", filepath.Join(work, "init"), 0o755)
	a.file("test", test, 0o755)
	a.bytes("run-pattern", []byte(m.run), 0o644)
	a.file("bin/busybox", k.busybox, 0o755)
	a.link("usr/bin/env", "/bin/busybox")
	for i, path := range load {
		content, err := unpacked(ctx, path)
		if err != nil {
			return "", err
		}
		a.bytes(fmt.Sprintf("modules/%03d-%s.ko", i, moduleName(path)), content, 0o644)
	}
	return path, a.close()
}
