//go:build linux && vm

package guardd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// These tests run in a virtual machine (make test-vm), which must not survive them.

const (
	vmPeerinact = 10 * time.Second
	vmTimeout   = 4 * time.Second // stop and margin of it
)

// armed starts a guard with the machine's watchdog, and waits for its lease.
func armed(t *testing.T, p plan, incarnation uint64) (*daemon, *engine, *guardpb.Configure) {
	t.Helper()
	d := startRole(t, "guard", p, nil)
	e := dial(t, p)
	if e.welcome.GuardIncarnation != incarnation {
		t.Fatalf("guard %d", e.welcome.GuardIncarnation)
	}
	conf := configurations(vmPeerinact, []plan{p}, []*engine{e})[0]
	e.configure(conf)
	e.awaitLease(true, false)
	e.await("an armed watchdog", func(f *guardpb.FromGuard) bool {
		for _, c := range f.GetPeers().GetConditions() {
			if strings.HasPrefix(c, "the watchdog is armed: "+p.Watchdog) {
				fmt.Println("vmtest:", c)
				return f.GetPeers().GetWatchdog().AsDuration() == vmTimeout
			}
			if strings.Contains(c, "no watchdog is armed") {
				t.Fatal(c)
			}
		}
		return false
	})
	return d, e, conf
}

func sysfs(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile("/sys/class/watchdog/watchdog0/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// fedAndDisarmed: while guard feeds it nothing happens, and an orderly end disarms it.
func fedAndDisarmed(t *testing.T, p plan) {
	t.Helper()
	d, e, _ := armed(t, p, 1)
	if s, to := sysfs(t, "state"), sysfs(t, "timeout"); s != "active" || to != "4" {
		t.Fatalf("the kernel says %s, %s s", s, to)
	}
	time.Sleep(2 * vmTimeout)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e.awaitLease(false, true)
	d.ended()
	if s := sysfs(t, "state"); s != "inactive" {
		t.Fatalf("after an orderly end the kernel says %s", s)
	}
	time.Sleep(vmTimeout + time.Second)
}

// perish waits for the reset that is due.
func perish(t *testing.T) {
	t.Helper()
	fmt.Printf("vmtest: the machine is to be reset within %v\n", vmTimeout)
	time.Sleep(20 * vmTimeout)
	fmt.Println("vmtest: the machine was not reset")
	t.Fatal("still here")
}

func TestVMWatchdogOfAKilledGuard(t *testing.T) {
	p := testPlan(t, "a", freePort(t, "127.0.0.1"))
	p.Watchdog = "/dev/watchdog0"
	fedAndDisarmed(t, p)
	d, _, _ := armed(t, p, 2)
	time.Sleep(vmTimeout)
	d.kill()
	perish(t)
}

func TestVMWatchdogAfterAStopThatFails(t *testing.T) {
	p := testPlan(t, "a", freePort(t, "127.0.0.1"))
	p.Watchdog = "/dev/watchdog0"
	fedAndDisarmed(t, p)
	_, e, conf := armed(t, p, 2)
	dir := t.TempDir()
	// A process that can't be killed, as in TestStopNamesWhatIsLeft.
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: "web", Cgroup: dir}}}); msg != "" {
		t.Fatal(msg)
	}
	conf.RaftId, conf.Peers[0].RaftId = 0, 0
	e.configure(conf)
	perish(t)
}
