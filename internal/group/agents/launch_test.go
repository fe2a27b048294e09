package agents

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// Programs that can't be run, or not any more: each with its reason.
func TestProgramsThatCannotRun(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p, _ := scripts(t, r, nil)
		monitor := filepath.Join(p.typ.GetScript().GetDirectory(), "monitor")
		write := func(mode os.FileMode, text string) {
			t.Helper()
			if err := os.RemoveAll(monitor); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(monitor, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
		check := func(want string) {
			t.Helper()
			if res := p.ask(agent.Call{Entry: agent.Monitor}); !strings.Contains(res.Err, want) || res.TimedOut {
				t.Errorf("want %q: %+v", want, res)
			}
		}
		check("monitor does not exist on this node")
		write(0o644, "#!/bin/sh\n")
		check("is it an executable file?")
		write(0o755, "#!/no/such/shell\n")
		check("the interpreter that its first line names does not exist")
		write(0o755, "echo no first line\n")
		check("neither a program for this machine nor a script")
		write(0o755, "")
		check("neither a program for this machine nor a script")
		if err := os.Remove(monitor); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(monitor, 0o755); err != nil {
			t.Fatal(err)
		}
		check("is it an executable file?")
		write(0o755, "#!/bin/sh\nexit 110\n")
		f := must(os.OpenFile(monitor, os.O_WRONLY, 0))
		check("text file busy")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		p.want(isOnline)
		p.attributes = map[string]string{"Path": "/" + strings.Repeat("x", 200<<10)}
		check("too long for the kernel")
	})
}

// What a program prints is bounded, whatever it prints, and its end is kept.
func TestFloodOfOutput(t *testing.T) {
	r := newRig(t, "cgroups")
	p, _ := scripts(t, r, map[string]string{"monitor": "head -c 64000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 100"})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res := p.want(isOffline)
	runtime.ReadMemStats(&after)
	if !strings.HasSuffix(res.Message, "the end") || len(res.Message) > tailSize {
		t.Errorf("message of %d bytes", len(res.Message))
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	var tail tailBuffer
	tail.size = 10
	for range 100 {
		if n, err := tail.Write([]byte("0123456789abc")); n != 13 || err != nil {
			t.Fatal(n, err)
		}
	}
	if tail.String() != "3456789abc" || cap(tail.b) > 100 {
		t.Errorf("%q, %d", tail.String(), cap(tail.b))
	}
}

// H2: a call that is over leaves nothing behind, also what has left its session and holds its output open.
func TestCallsLeaveNothing(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p, notes := scripts(t, r, map[string]string{
			"monitor": "export D\nsetsid sh -c 'echo $$ >$D/pid; exec sleep 1000' &\nwhile ! test -s $D/pid; do :; done\nexit 110",
		})
		p.want(isOnline)
		if pid := readPid(filepath.Join(notes, "pid")); pid == 0 || alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v in the service", m)
		}
	})
}

// A call whose time is over says what it was doing, and is ended with its whole tree.
func TestEvidence(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p, notes := scripts(t, r, map[string]string{"monitor": "echo looking\nsleep 1000 &\necho $! >$D/pid\nwait"})
		res := p.ask(agent.Call{Entry: agent.Monitor, Timeout: 300 * time.Millisecond})
		if !res.TimedOut || !strings.Contains(res.Message, "sleep[") || !strings.Contains(res.Message, "its last output: looking") {
			t.Errorf("%+v", res)
		}
		if pid := readPid(filepath.Join(notes, "pid")); pid == 0 || alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	})
}

func TestDoing(t *testing.T) {
	self := must(readStat(os.Getpid()))
	if s := self.doing(); !strings.Contains(s, fmt.Sprintf("[%d] ", os.Getpid())) {
		t.Errorf("%q", s)
	}
	if s := (procStat{process: process{Pid: 1 << 30}}).doing(); !strings.HasSuffix(s, "had just ended") {
		t.Errorf("%q", s)
	}
}

// Programs are born in their control group, without a shell in between, also after guard has killed everything in it.
func TestBornInside(t *testing.T) {
	r := newRig(t, "cgroups")
	if !r.h.direct {
		t.Fatal("programs can't be born in a control group here")
	}
	p, notes := scripts(t, r, map[string]string{
		"monitor": "cat /proc/self/cgroup >$D/cgroup\necho x >>$D/runs\nexit 110",
		"online":  "cat /proc/self/cgroup >$D/service",
		"offline": "",
	})
	runs := func() int { return len(told(t, notes, "runs")) }
	p.want(isOnline)
	if got := told(t, notes, "cgroup"); !strings.HasSuffix(got[len(got)-1], "/holdfast-n1/web/app.call") {
		t.Errorf("it ran in %s", got)
	}
	p.must(agent.Online)
	if got := told(t, notes, "service"); !strings.HasSuffix(got[len(got)-1], "/holdfast-n1/web/app") {
		t.Errorf("it ran in %s", got)
	}
	before := runs()
	for range 3 {
		// As guard does at the end of a lease.
		if err := writeCgroup(r.h.groupDir("web"), "cgroup.kill", "1"); err != nil {
			t.Fatal(err)
		}
		p.want(isOnline)
		p.must(agent.Online)
	}
	if n := runs() - before; n != 3 {
		t.Errorf("%d runs for 3 monitors", n)
	}
	// A directory that is gone is made again.
	r.h.Release("web")
	p.want(isOnline)
	if err := unix.Rmdir(place{h: r.h, group: "web", resource: "app"}.callDir()); err != nil {
		t.Fatal(err)
	}
	p.want(isOnline)
}

// A program that is killed by somebody is looked at once more, and once only; a service is not.
func TestKilledByOthers(t *testing.T) {
	r := newRig(t, "cgroups")
	p, notes := scripts(t, r, map[string]string{
		"monitor": "echo x >>$D/runs\nkill -9 $$", "online": "echo x >>$D/onlines\nkill -9 $$",
	})
	if res := p.want(isUnknown); !strings.Contains(res.Message, "was killed by signal 9") {
		t.Errorf("%+v", res)
	}
	if n := len(told(t, notes, "runs")); n != 2 {
		t.Errorf("%d runs", n)
	}
	if res := p.ask(agent.Call{Entry: agent.Online}); !strings.Contains(res.Err, "was killed by signal 9") {
		t.Errorf("%+v", res)
	}
	if n := len(told(t, notes, "onlines")); n != 1 {
		t.Errorf("%d onlines", n)
	}
}

// The nice value of a type holds for all that its programs start.
func TestScriptPriority(t *testing.T) {
	r := newRig(t, "cgroups")
	p, notes := scripts(t, r, map[string]string{"monitor": "until test $(nice) = 7; do sleep 0.01; done\nsh -c nice >$D/nice\nexit 110"})
	n := int32(7)
	p.typ.ScriptPriority = &n
	p.want(isOnline)
	if got := told(t, notes, "nice"); got[0] != "7" {
		t.Errorf("nice value %s", got)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "B=2", "A=3"}, []string{"B=4", "C=5", "B=", "D"})
	if want := []string{"A=3", "B=", "C=5", "D"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
