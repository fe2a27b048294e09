package agents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// A daemon in the foreground: its death is told without polling, with its cause, and the monitor agrees.
func TestProcessDeath(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		a := map[string]string{"PathName": "/bin/sleep", "Arguments": "1000"}
		r.watchState("Process", a, isOffline)
		for range 2 {
			r.do("Process", agent.Online, a)
		}
		if res := r.watchState("Process", a, isOnline); !res.Watched {
			t.Fatal("it is not watched")
		}
		m := r.members()
		if len(m) != 1 {
			t.Fatalf("%d processes after online was called twice", len(m))
		}
		if m[0].session != m[0].Pid {
			t.Errorf("process %d is in session %d", m[0].Pid, m[0].session)
		}
		if err := unix.Kill(m[0].Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		want := agent.Notice{Group: "web", Resource: "app", What: fmt.Sprintf("process %d was killed by signal 9", m[0].Pid)}
		if n := r.notice(); n != want {
			t.Fatalf("notice %+v", n)
		}
		res := r.watchState("Process", a, isOffline)
		if res.Message != want.What {
			t.Errorf("message %q", res.Message)
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", m[0].Pid)); err == nil {
			t.Error("it was not reaped")
		}
		r.do("Process", agent.Clean, a)
		r.do("Process", agent.Online, a)
		r.watchState("Process", a, isOnline)
		r.do("Process", agent.Offline, a)
		r.watchState("Process", a, isOffline)
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
	})
}

// A daemon that forks into the background and ignores SIGTERM is found, watched, stopped and cleaned.
func TestForkingDaemon(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		pidFile := filepath.Join(t.TempDir(), "pid")
		daemon := script(t, "trap '' TERM", "echo $$ >"+pidFile, "while :; do sleep 1000; done")
		a := map[string]string{"PathName": script(t, "setsid "+daemon+" &", "while ! test -s "+pidFile+"; do :; done", "exit 0"), "StopWait": "50ms"}
		start := func() int {
			t.Helper()
			if err := os.RemoveAll(pidFile); err != nil {
				t.Fatal(err)
			}
			r.do("Process", agent.Online, a)
			until(t, "the daemon runs in the background", func() bool {
				res := r.monitor("Process", a)
				pid := readPid(pidFile)
				procs := r.h.watcher.watching(key{"web", "app"})
				return res.State == isOnline && res.Watched && pid > 0 && len(procs) == 1 && procs[0].Pid == pid
			})
			return readPid(pidFile)
		}
		pid := start()
		r.do("Process", agent.Clean, a)
		r.watchState("Process", a, isOffline)
		if alive(pid) {
			t.Fatal("clean left it alive")
		}
		pid = start()
		r.do("Process", agent.Offline, a)
		r.watchState("Process", a, isOffline)
		if alive(pid) {
			t.Fatal("offline left it alive")
		}
		pid = start()
		r.reopen()
		r.watchState("Process", a, isOnline)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if n := r.notice(); n.What != fmt.Sprintf("process %d has ended", pid) {
			t.Fatalf("%+v", n)
		}
		r.watchState("Process", a, isFaulted) // what it was waiting for is left
		r.do("Process", agent.Clean, a)
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
	})
}

func (w *watcher) watching(k key) []process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.byKey[k])
}

func readPid(name string) int {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

func alive(pid int) bool {
	st, err := readStat(pid)
	return err == nil && !st.zombie
}

// The main process dies and leaves its workers: that is not offline yet, and clean takes the workers too.
func TestWorkersLeft(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		a := map[string]string{"PathName": script(t, "sleep 1000 &", "sleep 1000 &", "wait")}
		r.do("Process", agent.Online, a)
		until(t, "workers run", func() bool { return len(r.members()) == 3 })
		r.watchState("Process", a, isOnline)
		main := r.h.watcher.watching(key{"web", "app"})[0]
		if err := main.signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.notice()
		if res := r.watchState("Process", a, isFaulted); !strings.HasSuffix(res.Message, "; 2 of its processes are left") || res.Watched {
			t.Errorf("%+v", res)
		}
		r.do("Process", agent.Clean, a)
		r.watchState("Process", a, isOffline)
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
	})
}

// A new host finds what the old one has started, and tells its death though it is not the one who started it.
func TestAdoption(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		a := map[string]string{"PathName": "/bin/sleep", "Arguments": "1000"}
		r.do("Process", agent.Online, a)
		pid := r.members()[0].Pid
		r.reopen()
		if m := r.members(); len(m) != 1 || m[0].Pid != pid {
			t.Fatalf("the new host finds %v", m)
		}
		if res := r.watchState("Process", a, isOnline); !res.Watched {
			t.Fatal("it is not watched")
		}
		r.do("Process", agent.Online, a)
		if m := r.members(); len(m) != 1 {
			t.Fatalf("online started another one: %v", m)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if n := r.notice(); n.Resource != "app" {
			t.Fatalf("%+v", n)
		}
		r.watchState("Process", a, isOffline)
		r.do("Process", agent.Clean, a)
	})
}

// An online that died with its engine is undone before anything is probed (H3).
func TestUnfinishedOnline(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p := place{h: r.h, group: "web", resource: "app"}
		if err := p.save(record{Starting: true}); err != nil {
			t.Fatal(err)
		}
		service, err := p.start(launch{argv: []string{"/bin/sleep", "1000"}, service: true}, false)
		if err != nil {
			t.Fatal(err)
		}
		call, err := p.start(launch{argv: []string{"/bin/sleep", "1000"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		r.reopen()
		for _, c := range []*child{service, call} {
			if ws, err := c.wait(t.Context(), &tailBuffer{}); err != nil || ws.Signal() != unix.SIGKILL {
				t.Fatalf("something ended by itself: %v, %v", ws, err)
			}
			c.release()
		}
		if r.members() != nil {
			t.Fatal("something is left")
		}
	})
}

// What a daemon prints is shown when it ends, and its log does not grow without bound.
func TestLog(t *testing.T) {
	r := newRig(t, "cgroups")
	a := map[string]string{"PathName": script(t, "echo can not open the configuration >&2", "exit 3")}
	r.do("Process", agent.Online, a)
	until(t, "it has ended, and how is known", func() bool {
		return strings.Contains(r.monitor("Process", a).Message, "exited with status 3")
	})
	res := r.watchState("Process", a, isOffline)
	if !strings.Contains(res.Message, "can not open the configuration") {
		t.Errorf("message %q", res.Message)
	}
	p := place{h: r.h, group: "web", resource: "app"}
	line := strings.Repeat("x", 1023) + "\n"
	if err := os.WriteFile(p.logFile(), []byte(strings.Repeat(line, 2*logSize/1024)+"the end\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.trimLog()
	if size := p.logEnd(); size > logSize {
		t.Errorf("the log has %d bytes", size)
	}
	if out := p.logSince(0); !strings.HasSuffix(out, "the end") {
		t.Errorf("the log ends with %q", out)
	}
}

func TestProtect(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		g := &v1.Group{Name: "web", Resources: []*v1.Resource{
			{Name: "ip", Type: "IP", Attributes: map[string]string{"Address": "192.0.2.9/24", "Device": "eth0"}},
			{Name: "app", Type: "Process"},
		}}
		p, err := r.h.Protect(g)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(p.Addresses, []string{"192.0.2.9/24 eth0"}) || len(p.ProcessGroups) != 0 {
			t.Fatalf("%v", p)
		}
		a := map[string]string{"PathName": "/bin/sleep", "Arguments": "1000"}
		r.do("Process", agent.Online, a)
		pid := r.members()[0].Pid
		if p, err = r.h.Protect(g); err != nil {
			t.Fatal(err)
		}
		if r.h.cgroup == "" {
			if !slices.Equal(p.ProcessGroups, []int32{int32(pid)}) {
				t.Fatalf("%v", p)
			}
		} else {
			// What guard does when the lease ends.
			if err := killCgroup(context.Background(), p.Cgroup); err != nil {
				t.Fatal(err)
			}
			r.watchState("Process", a, isOffline)
			r.h.Release("web")
			if _, err := os.Stat(p.Cgroup); err == nil {
				t.Fatal("the control group is left")
			}
		}
	})
}
