//go:build linux

package guardd

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

// underLease is a guard that holds its lease, alone, and protects processes that are hard to end.
func underLease(t *testing.T, p plan) (d *daemon, e *engine, dead <-chan struct{}) {
	t.Helper()
	d = startRole(t, "guard", p, nil)
	e = dial(t, p)
	e.configure(configurations(time.Second, []plan{p}, []*engine{e})[0])
	e.awaitLease(true, false)
	dir := makeCgroup(t, unified())
	_, dead = startStubborn(t, dir)
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: "web", Cgroup: dir}}}); msg != "" {
		t.Fatal(msg)
	}
	return d, e, dead
}

func alive(t *testing.T, when string, dead <-chan struct{}) {
	t.Helper()
	select {
	case <-dead:
		t.Fatalf("%s: the group's processes have ended", when)
	default:
	}
}

// A node that is detached leaves its services alone, over any number of guards, until it is told to stop them.
func TestDetach(t *testing.T) {
	p := testPlan(t, "a", freePort(t, "127.0.71.1"))
	d, e, dead := underLease(t, p)
	e.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Leaving{Leaving: &guardpb.Leaving{Detach: true}}})
	if code := d.ended(); code != 0 {
		t.Fatalf("exit status %d: %s", code, d.out)
	}
	alive(t, "guard has ended", dead)
	if until, err := guardclient.LeaseUntil(p.Run); err != nil || until != 0 {
		t.Errorf("guard.lease says %v, %v", until, err)
	}
	for _, end := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if end == syscall.SIGTERM { // somebody has tidied up
			if err := os.Remove(filepath.Join(p.Run, "guard.state")); err != nil {
				t.Fatal(err)
			}
		}
		d = startRole(t, "guard", p, nil)
		e = dial(t, p)
		if w := e.welcome; w.GetRebooted() || len(w.GetProtected()) > 0 || len(w.GetDetached()) != 1 || w.Detached[0].GetGroup() != "web" {
			t.Fatalf("welcome %v", w)
		}
		if l := e.awaitLease(false, false); !l.GetDetached() {
			t.Fatalf("%v", l)
		}
		if err := d.cmd.Process.Signal(end); err != nil {
			t.Fatal(err)
		}
		d.ended()
		alive(t, end.String(), dead)
	}
	startRole(t, "guard", p, nil)
	e = dial(t, p)
	e.awaitLease(false, false)
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_StopDetached{StopDetached: &guardpb.StopDetached{Reason: "nobody counts on it"}}}); msg != "" {
		t.Fatal(msg)
	}
	awaitDead(t, "the group's processes", dead)
	e.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Quiet{Quiet: &guardpb.Quiet{}}})
	e.awaitLease(false, true)
	if _, err := os.Stat(filepath.Join(p.State, detachedName)); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", detachedName, err)
	}
}

// What can't be read must not be taken for nothing; what is of another boot is nothing.
func TestDetachedFile(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, detachedName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(bootID() + "\nrubbish")
	if _, err := loadDetached(dir, kept{}); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Fatalf("%v", err)
	}
	write("another boot\nrubbish")
	if k, err := loadDetached(dir, kept{}); err != nil || k.sameBoot {
		t.Fatalf("%v, %v", k, err)
	}
}

// Fail-fast stops everything, and restarts the machine only if guard may.
func TestFailFast(t *testing.T) {
	for _, may := range []bool{true, false} {
		p := testPlan(t, "a", freePort(t, "127.0.71.1"))
		file := filepath.Join(t.TempDir(), "restarted")
		if may {
			p.Restart = file
		}
		d, e, dead := underLease(t, p)
		e.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Reset_{Reset_: &guardpb.Reset{Reason: "web failed", Restart: true}}})
		e.awaitLease(false, false)
		e.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Quiet{Quiet: &guardpb.Quiet{}}})
		if code := d.ended(); code != 0 {
			t.Fatalf("exit status %d: %s", code, d.out)
		}
		awaitDead(t, "the group's processes", dead)
		if _, err := os.Stat(file); (err == nil) != may {
			t.Errorf("it may: %v; restarted: %v", may, err == nil)
		}
	}
}
