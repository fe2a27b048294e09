//go:build linux

package guardd

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// stubborn ignores SIGTERM, and has a child in a session of its own that does so
// too. Each says a word once it is ready.
const stubborn = `trap "" TERM; setsid sh -c 'trap "" TERM; echo child; while :; do sleep 1000; done' & echo parent; while :; do sleep 1000; done`

// startStubborn and put it into a control group. The pipe ends when all have died
// that hold its other end: parent, child, and their sleeps.
func startStubborn(t *testing.T, cgroup string) (pid int, allDead <-chan struct{}) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// The shell waits for a line before it forks anything, so that all are in the group.
	cmd := exec.Command("sh", "-c", "read go; "+stubborn)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if cgroup != "" {
		if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintln(in, "go")
	lines := bufio.NewReader(r)
	for range 2 {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	dead := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		r.Close()
		close(dead)
	}()
	return cmd.Process.Pid, dead
}

func awaitDead(t *testing.T, what string, dead <-chan struct{}) {
	t.Helper()
	select {
	case <-dead:
	case <-time.After(5 * time.Second):
		t.Errorf("%s still run", what)
	}
}

// makeCgroup below a hierarchy, with one more below it.
func makeCgroup(t *testing.T, hierarchy string) string {
	t.Helper()
	dir, err := os.MkdirTemp(hierarchy, "holdfast-test-")
	if err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = killCgroup(dir, time.Now().Add(5*time.Second))
		for _, d := range []string{inner, dir} {
			// The kernel lets go of a group a moment after its last process.
			for range 500 {
				if err := os.Remove(d); err == nil || os.IsNotExist(err) {
					break
				}
				time.Sleep(2 * time.Millisecond)
			}
		}
	})
	return dir
}

func unified() string {
	_, mount := cgroupMount()
	return mount
}

// hierarchies of control groups on this machine: the unified one, and one of the old.
func hierarchies(t *testing.T) map[string]string {
	t.Helper()
	h := map[string]string{"unified": unified()}
	if h["unified"] == "" {
		t.Fatal("no unified hierarchy of control groups is mounted")
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		before, after, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(after, "cgroup ") && strings.Contains(after, "freezer") {
			h["old"] = strings.Fields(before)[4]
		}
	}
	return h
}

func testStopper(t *testing.T) *stopper {
	t.Helper()
	s, err := newStopper(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func TestStopKillsControlGroups(t *testing.T) {
	s := testStopper(t)
	for name, hierarchy := range hierarchies(t) {
		t.Run(name, func(t *testing.T) {
			dir := makeCgroup(t, hierarchy)
			_, outer := startStubborn(t, dir)
			_, inner := startStubborn(t, filepath.Join(dir, "inner"))
			other := makeCgroup(t, hierarchy)
			_, unit := startStubborn(t, other)
			begin := time.Now()
			err := s.stop(&guard.Stop{Within: 5 * time.Second, Protected: []*guardpb.Protect{{Group: "web", Cgroup: dir, OtherCgroups: []string{other}}}})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("stopped in %v", time.Since(begin))
			awaitDead(t, "processes in the group", outer)
			awaitDead(t, "processes in the group below", inner)
			awaitDead(t, "processes in another group", unit)
			if err := s.stop(&guard.Stop{Within: time.Second, Protected: []*guardpb.Protect{{Group: "web", Cgroup: dir}}}); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

func TestStopKillsProcessGroups(t *testing.T) {
	s := testStopper(t)
	cmd := exec.Command("sh", "-c", `trap "" TERM; sleep 1000 & sleep 1000`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It stays a zombie until the end of the test: that counts as stopped.
	t.Cleanup(func() { _ = cmd.Wait() })
	pg := int32(cmd.Process.Pid)
	if err := s.stop(&guard.Stop{Within: 5 * time.Second, Protected: []*guardpb.Protect{{Group: "web", ProcessGroups: []int32{pg}}}}); err != nil {
		t.Fatal(err)
	}
	if left, err := groupMembers([]int32{pg}); err != nil || len(left) != 0 {
		t.Errorf("processes %v still run, %v", left, err)
	}
}

// What can't be stopped is named, after the time that there is, and costs the others nothing.
func TestStopNamesWhatIsLeft(t *testing.T) {
	s := testStopper(t)
	// A control group whose list holds a process that can't be killed: 0 stands for one
	// of another PID namespace.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	begin := time.Now()
	err := s.stop(&guard.Stop{Within: 50 * time.Millisecond, Protected: []*guardpb.Protect{
		{Group: "a", Cgroup: dir},
		{Group: "b", ProcessGroups: []int32{int32(cmd.Process.Pid)}},
		{Group: "c", Addresses: []string{"nonsense"}},
		{Group: "d", Cgroup: "relative/path"},
	}})
	if took := time.Since(begin); took < 50*time.Millisecond || took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if err == nil || !strings.Contains(err.Error(), "group a: processes [0]") || !strings.Contains(err.Error(), "group c: address nonsense") ||
		!strings.Contains(err.Error(), "group d") || strings.Contains(err.Error(), "group b") {
		t.Errorf("error %v", err)
	}
}

// inNamespace starts a guard in a network namespace of its own whose loopback has
// an address, and returns a handle on that namespace.
func inNamespace(t *testing.T, p plan, address string) (*daemon, *netlink.Handle) {
	t.Helper()
	p.Loopback = address
	d := startRole(t, "guard", p, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	ns, err := netns.GetFromPid(d.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return d, h
}

func hasAddress(t *testing.T, h *netlink.Handle, ip string) bool {
	t.Helper()
	all, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.IP.Equal(net.ParseIP(ip)) {
			return true
		}
	}
	return false
}

// The whole way: a lease is taken, a group is protected, the node is evicted, and
// what ran is gone: processes that refuse to end, and addresses of both families.
func TestLeaseEndStopsEverything(t *testing.T) {
	p := testPlan(t, "a", "127.0.0.1:7801")
	_, h := inNamespace(t, p, "10.99.0.9/24")
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	e := dial(t, p)
	six, _ := netlink.ParseAddr("fd00:99::9/64")
	if err := h.AddrAdd(lo, six); err != nil {
		t.Fatal(err)
	}
	conf := configurations(time.Second, []plan{p}, []*engine{e})[0]
	e.configure(conf)
	e.awaitLease(true, false)
	dir := makeCgroup(t, unified())
	_, dead := startStubborn(t, dir)
	protect := &guardpb.Protect{Group: "web", Cgroup: dir, Addresses: []string{"10.99.0.9/24 lo", "fd00:99::9/64 ", "10.99.0.10/24 lo", "10.99.0.11/24 ", "10.99.0.9/24 gone0"}}
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: protect}}); msg != "" {
		t.Fatal(msg)
	}
	if !hasAddress(t, h, "10.99.0.9") || !hasAddress(t, h, "fd00:99::9") {
		t.Fatal("the addresses are not there")
	}
	conf.RaftId, conf.Peers[0].RaftId = 0, 0
	e.configure(conf)
	l := e.awaitLease(false, true)
	if !strings.Contains(l.Reason, "not a member") {
		t.Errorf("reason %q", l.Reason)
	}
	awaitDead(t, "the group's processes", dead)
	if hasAddress(t, h, "10.99.0.9") || hasAddress(t, h, "fd00:99::9") {
		t.Error("an address is still there")
	}
	if !hasAddress(t, h, "127.0.0.1") {
		t.Error("an address that was not protected is gone")
	}
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: protect}}); !strings.Contains(msg, "no lease") {
		t.Errorf("without a lease protect was answered %q", msg)
	}
}

// A link whose address is not there yet is a condition, and bound when it comes.
func TestLinkAddressComesLater(t *testing.T) {
	p := testPlan(t, "a", "10.99.0.1") // without a port: the usual one
	_, h := inNamespace(t, p, "10.99.0.9/32")
	e := dial(t, p)
	found := false
	for _, c := range e.welcome.Conditions {
		found = found || strings.Contains(c, "10.99.0.1:7946 can't be bound")
	}
	if !found {
		t.Fatalf("conditions %q", e.welcome.Conditions)
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := netlink.ParseAddr("10.99.0.1/32")
	if err := h.AddrAdd(lo, address); err != nil {
		t.Fatal(err)
	}
	e.await("table without the condition", func(f *guardpb.FromGuard) bool {
		if f.GetPeers() == nil {
			return false
		}
		for _, c := range f.GetPeers().Conditions {
			if strings.Contains(c, "can't be bound") {
				return false
			}
		}
		return true
	})
}
