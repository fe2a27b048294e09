package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs that tests run, and the Debian package of each.
var programs = []struct{ program, pkg string }{
	{"gcc", "gcc libc6-dev"}, // the race detector links with it, and models are compiled
	{"spin", "spin"},
	{"ip", "iproute2"},
	{"arping", "iputils-arping"},
	{"ping", "iputils-ping"},
	{"nginx", "nginx-light"},
	{"ps", "procps"},
	{"curl", "curl"},
	{"fence_dummy", "fence-agents"},
	{"/usr/lib/ocf/resource.d/heartbeat/Dummy", "resource-agents"},
	{"modprobe", "kmod"}, // of the agent Filesystem
	{"snmptrapd", "snmptrapd"},
	{"smilint", "smitools"},
	{"qemu-system-x86_64", "qemu-system-x86"}, // of make test-vm
}

// needs makes sure that programs are there. Without root it only says what is
// missing: the tests that use it will tell.
func needs(ctx context.Context) error {
	var missing, packages []string
	for _, p := range programs {
		if !found(p.program) {
			missing = append(missing, p.program)
			packages = append(packages, strings.Fields(p.pkg)...)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	install := append([]string{"apt-get", "install", "-y", "-q", "--no-install-recommends"}, packages...)
	if os.Geteuid() != 0 || !found("apt-get") {
		fmt.Printf("missing: %s; tests that use them will be skipped or fail. As root: %s\n",
			strings.Join(missing, ", "), strings.Join(install, " "))
		return nil
	}
	fmt.Printf("missing: %s; installing %s\n", strings.Join(missing, ", "), strings.Join(packages, " "))
	// Services of packages stay off: the tests start what they need themselves.
	restore := keepServicesOff()
	defer restore()
	if err := apt(ctx, install); err == nil {
		return nil
	}
	if err := apt(ctx, []string{"apt-get", "update", "-q"}); err != nil {
		return fmt.Errorf("apt-get update: %w", err)
	}
	return apt(ctx, install)
}

func found(program string) bool {
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	if !filepath.IsAbs(program) {
		program = "/usr/sbin/" + program
	}
	_, err := os.Stat(program)
	return err == nil
}

func apt(ctx context.Context, args []string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// keepServicesOff tells Debian's package scripts to start no service, unless
// the machine has said something about that itself. The result undoes it.
func keepServicesOff() func() {
	const policy = "/usr/sbin/policy-rc.d"
	f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return func() {}
	}
	_, err = f.WriteString("#!/bin/sh\nexit 101\n")
	if cerr := f.Close(); err != nil || cerr != nil {
		fmt.Fprintf(os.Stderr, "testrun: %s: %v %v\n", policy, err, cerr)
	}
	return func() {
		if err := os.Remove(policy); err != nil {
			fmt.Fprintln(os.Stderr, "testrun:", err)
		}
	}
}
