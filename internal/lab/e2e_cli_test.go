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

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
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
	runLab(t, name, "up", "--dir", dir, "--nodes", "2", "--arbiters", "2", "--lock-disks", "1")
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
	if out, err := labCommand(t, name, "up", "--arbiters", "1").CombinedOutput(); err == nil || !strings.Contains(string(out), "2 arbiters and 1 lock disks") {
		t.Errorf("up with other points: %v %s", err, out)
	}
	for _, c := range [][]string{{"kill", "a1"}, {"start", "a1"}, {"pause", "a1"}, {"resume", "a1"}, {"cut", "a1"}, {"heal", "a1"},
		{"cut", "n1", "--from", "a1,d1"}, {"cut", "n2", "--link", "1"}} {
		runLab(t, name, c...)
	}
	if out := runLab(t, name, "status"); !strings.Contains(out, "link0 deaf to a1, link1 deaf to a1, d1 cut") || strings.Count(out, "\na") != 2 || !strings.Contains(out, dir+"/disks/d1") {
		t.Errorf("status: %s", out)
	}
	runLab(t, name, "heal", "n1")
	if out := runLab(t, name, "logs", "a1"); !strings.Contains(out, "serving") {
		t.Errorf("logs of a1: %s", out)
	}
	var s Status
	if err := json.Unmarshal([]byte(runLab(t, name, "status", "-o", "json")), &s); err != nil || s.Schema != StatusSchema || len(s.Nodes) != 2 || len(s.Points) != 3 ||
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
	for _, c := range [][]string{{"kill", "n9"}, {"start"}, {"exec", "n1"}, {"status", "-o", "xml"}, {"cut", "n1", "--one-way"},
		{"env", "a1"}, {"kill", "d1"}, {"cut", "a1", "--from", "d1"}} {
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
	up := labCommand(t, name, "up", "--dir", dir, "--arbiters", "2", "--lock-disks", "1")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(netnsesOf(name)) < 4 {
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

const twoSites = `kind: Cluster
name: sites
preferredFencing: nodeWeight
---
kind: Node
name: north
site: oslo
weight: 3
links: [{name: lan, address: 10.9.0.1}]
---
kind: Node
name: south
site: rome
links: [{name: lan, address: 10.9.0.2}]
`

// A configuration of one's own goes with coordination points.
func TestUpFromFile(t *testing.T) {
	name, dir := testName(t), filepath.Join(t.TempDir(), "lab")
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte(twoSites), 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if l, err := Open(name, ""); err == nil {
			_ = l.Down()
		}
	}()
	runLab(t, name, "up", "--dir", dir, "-f", file, "--arbiters", "1")
	l, err := Open(name, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Client("south")
	if err != nil {
		t.Fatal(err)
	}
	q, err := c.Quorum(t.Context())
	if err != nil || q.PreferredFencing != v1.PreferredFencing_PREFERRED_FENCING_NODE_WEIGHT || !q.Votes || len(q.Points) != 1 || !strings.Contains(q.Points[0].Where, "10.9.0.201") {
		t.Errorf("%v %v", err, q)
	}
	runLab(t, name, "down")
	checkNothingLeft(t, l)
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

// asNobody runs `holdfast lab …` without root, with a home of its own, and
// checks at the end that nothing is left.
func asNobody(t *testing.T) (run func(args ...string) (string, error)) {
	t.Helper()
	home, err := os.MkdirTemp("", "holdfast-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	name := testName(t)
	run = func(args ...string) (string, error) {
		cmd := labCommand(t, name, args...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home}
		cmd.Dir = home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	t.Cleanup(func() {
		if left, _ := os.ReadDir(home); len(left) > 0 {
			t.Errorf("left in the home directory: %v", left)
		}
		if left := marked(marker(name, "")); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
		os.RemoveAll(home)
	})
	return run
}

// Without root the demo works on loopback addresses, and says what is missing.
func TestDemoWithoutRoot(t *testing.T) {
	run := asNobody(t)
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
}

func TestPointsWithoutRoot(t *testing.T) {
	run := asNobody(t)
	for _, c := range [][]string{{"up", "--nodes", "2", "--arbiters", "2", "--lock-disks", "1"}, {"kill", "a2"}, {"status"}, {"down"}} {
		out, err := run(c...)
		if err != nil {
			t.Errorf("lab %v: %v\n%s", c, err, out)
		}
		if c[0] == "status" && (!strings.Contains(out, "127.77.1.201") || strings.Count(out, "in use") < 2) {
			t.Errorf("status: %s", out)
		}
	}
}
