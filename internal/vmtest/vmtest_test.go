//go:build linux

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a console must show for a machine to have passed.
func TestVerdict(t *testing.T) {
	passes := &machine{name: "passes"}
	resets := &machine{name: "resets", reset: true, console: "softdog: bite"}
	const pass, exit0, due, bite = "--- PASS: TestVMx (0.1s)", "vmtest: exit 0", "vmtest: the machine is to be reset within 4s", "[   20.1] softdog: bite"
	for _, c := range []struct {
		name  string
		m     *machine
		lines []string
		after time.Duration
		want  string
	}{
		{"passed", passes, []string{pass, exit0}, 0, ""},
		{"failed", passes, []string{"--- FAIL: TestVMx (0.1s)", "vmtest: exit 1"}, 0, `ended with status "1"`},
		{"skipped", passes, []string{pass, "    --- SKIP: TestVMx/a (0.1s)", exit0}, 0, "skipped"},
		{"nothing ran", passes, []string{exit0}, 0, "no test has run"},
		{"never ended", passes, []string{pass}, 0, `status ""`},
		{"panic", passes, []string{pass, "[ 1.0] Kernel panic - not syncing", exit0}, 0, "Kernel panic"},
		{"reset", resets, []string{due, bite}, 4 * time.Second, ""},
		{"reset by something else", resets, []string{due}, 4 * time.Second, "does not show"},
		{"reset too early", resets, []string{bite}, 0, "before it was due"},
		{"reset too late", resets, []string{due, bite}, 5 * time.Minute, "late"},
		{"not reset", resets, []string{due, bite, "vmtest: the machine was not reset", "vmtest: exit 1"}, time.Minute, "was not reset"},
		{"ended instead", resets, []string{due, bite, exit0}, 4 * time.Second, "should have been reset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var con console
			start := time.Unix(0, 0)
			for _, l := range c.lines {
				con.line(l, start)
			}
			err := con.verdict(c.m, start.Add(c.after))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// The archive is one that others can read.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.cpio.gz")
	a, err := newArchive(name)
	if err != nil {
		t.Fatal(err)
	}
	a.bytes("init", []byte("abc"), 0o755)
	a.bytes("modules/deep/x.ko", make([]byte, 5), 0o644)
	a.link("usr/bin/env", "/bin/busybox")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	// A second reader of the same form: the kernel's own is tried by make test-vm.
	raw, err := exec.Command("gzip", "-dc", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for at := 0; ; {
		if string(raw[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		size, length := hex(t, raw[at+54:]), hex(t, raw[at+94:])
		entry := string(raw[at+110 : at+110+length-1])
		if entry == "TRAILER!!!" {
			break
		}
		names = append(names, entry)
		at = (at+110+length+3)&^3 + (size+3)&^3
	}
	if got, want := strings.Join(names, " "), "init modules modules/deep modules/deep/x.ko usr usr/bin usr/bin/env"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	a, err = newArchive(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	a.file("x", filepath.Join(dir, "nowhere"), 0o644)
	if err := a.close(); err == nil {
		t.Error("a file that is not there is no error")
	}
}

func hex(t *testing.T, b []byte) (n int) {
	t.Helper()
	for _, c := range b[:8] {
		n = n<<4 | strings.IndexByte("0123456789abcdef", c)
	}
	return n
}

func TestModuleName(t *testing.T) {
	for path, want := range map[string]string{"a/crc-t10dif.ko": "crc_t10dif", "sd_mod.ko.xz": "sd_mod", "kernel/x/y-z.ko.zst": "y_z"} {
		if got := moduleName(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
