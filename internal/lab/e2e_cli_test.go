package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// labCommand prepares the real binary's `holdfast lab …` for a lab of its own.
func labCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := holdfast()
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), binary, append([]string{"lab", "--name", name}, args...)...)
}

func runLab(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := labCommand(t, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("holdfast lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// What `lab --help` promises, as a person would type it.
func TestCommands(t *testing.T) {
	name, dir := testName(t), filepath.Join(t.TempDir(), "lab")
	defer func() {
		if l, err := Open(name, ""); err == nil {
			_ = l.Down()
		}
	}()
	runLab(t, name, "up", "--dir", dir, "--nodes", "2")
	l, err := Open(name, "")
	if err != nil {
		t.Fatal(err)
	}
	if out := runLab(t, name, "up"); !strings.Contains(out, "up already") {
		t.Errorf("up again: %s", out)
	}
	if out, err := labCommand(t, name, "up", "--nodes", "3").CombinedOutput(); err == nil || !strings.Contains(string(out), "lab down --name "+name) {
		t.Errorf("up with another number of nodes: %v %s", err, out)
	}
	if out := runLab(t, name, "exec", "n2", "--", "hostname"); out != "n2\n" {
		t.Errorf("exec: %q", out)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(`eval "$(%s lab --name %s env n1)" && %s status`, l.rec.Binary, name, l.rec.Binary))
	if out, err := sh.CombinedOutput(); err != nil || !strings.Contains(string(out), "n2") || !strings.Contains(string(out), defaultGroup) {
		t.Errorf("env: %v %s", err, out)
	}
	// On the node itself plain commands work too.
	on2 := labCommand(t, name, "exec", "n2", "--", l.rec.Binary, "node", "show", "n2")
	on2.Env = append(os.Environ(), apiVariable+"=/of/another/node")
	if out, err := on2.CombinedOutput(); err != nil || !strings.Contains(string(out), "n2") {
		t.Errorf("node show on n2: %v %s", err, out)
	}
	runLab(t, name, "cut", "n2", "--link", "1")
	var s Status
	if err := json.Unmarshal([]byte(runLab(t, name, "status", "-o", "json")), &s); err != nil || s.Schema != StatusSchema || len(s.Nodes) != 2 ||
		len(s.Nodes[1].Cut) != 1 || s.Nodes[0].State != Running || s.Nodes[0].Cluster == "" {
		t.Errorf("status: %v %+v", err, s)
	}
	if out := runLab(t, name, "status"); !strings.Contains(out, "link1 cut") {
		t.Errorf("status: %s", out)
	}
	runLab(t, name, "heal", "n2")
	if out := runLab(t, name, "logs", "n1", "-n", "5"); strings.Count(out, "\n") == 0 {
		t.Errorf("logs: %q", out)
	}
	for _, c := range [][]string{{"kill", "n9"}, {"start"}, {"exec", "n1"}, {"status", "-o", "xml"}, {"cut", "n1", "--one-way"}} {
		if out, err := labCommand(t, name, c...).CombinedOutput(); err == nil || len(out) == 0 {
			t.Errorf("lab %v: %v %s", c, err, out)
		}
	}
	runLab(t, name, "down")
	checkNothingLeft(t, l)
	if out := runLab(t, name, "down"); !strings.Contains(out, "no lab") {
		t.Errorf("down again: %s", out)
	}
}

// A lab up that is killed half-way is removed by the next command about any lab.
func TestKilledUp(t *testing.T) {
	name, dir := testName(t), filepath.Join(t.TempDir(), "lab")
	up := labCommand(t, name, "up", "--dir", dir)
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(netnsesOf(name)) < 3 {
		if time.Now().After(deadline) {
			t.Fatal("lab up makes nothing")
		}
		time.Sleep(time.Millisecond) // until it is in the middle of its work
	}
	_ = up.Process.Signal(unix.SIGKILL)
	_ = up.Wait()
	reg, err := openRegistry()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := loadRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	runLab(t, name+"x", "down")
	checkNothingLeft(t, &Lab{reg: reg, rec: rec})
}

// The demo as make demo runs it.
func TestDemo(t *testing.T) {
	name, dir := testName(t), filepath.Join(t.TempDir(), "lab")
	out := runLab(t, name, "demo", "--dir", dir)
	checkDemo(t, out)
	l, err := Open(name, "")
	if err != nil {
		t.Fatal(err)
	}
	runLab(t, name, "down")
	checkNothingLeft(t, l)
}

func checkDemo(t *testing.T, out string) {
	t.Helper()
	t.Log(out)
	for _, want := range []string{"Online after", "It answers again", "is a member again", "lab down"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q", want)
		}
	}
}

// Without root the demo works on loopback addresses, and says what is missing.
func TestDemoWithoutRoot(t *testing.T) {
	home, err := os.MkdirTemp("", "holdfast-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	const nobody = 65534
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	name := testName(t)
	run := func(args ...string) (string, error) {
		cmd := labCommand(t, name, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home}
		cmd.Dir = home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("demo")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	checkDemo(t, out)
	if !strings.Contains(out, "No IP and NIC resources") {
		t.Error("the demo does not say what is missing")
	}
	if out, err := run("down"); err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
	if left, _ := os.ReadDir(home); len(left) > 0 {
		t.Errorf("left in the home directory: %v", left)
	}
	if left := marked(marker(name, "")); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}
