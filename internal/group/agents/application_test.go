package agents

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// An application that is described by programs and a pid file, from start to clean.
func TestApplication(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		pidFile, reason := filepath.Join(dir, "pid"), filepath.Join(dir, "reason")
		a := map[string]string{
			"StartProgram": script(t, "echo $GREETING", "sh -c 'echo $$ >"+pidFile+"; exec sleep 1000' &", "while ! test -s "+pidFile+"; do :; done"),
			"StopProgram":  script(t, "kill $(cat "+pidFile+")", "rm "+pidFile),
			"CleanProgram": script(t, "echo $* >"+reason) + " 'the reason is'",
			"PidFiles":     pidFile,
			"Environment":  "GREETING='hello there'",
		}
		r.watchState("Application", a, isOffline)
		for range 2 {
			r.do("Application", agent.Online, a)
		}
		if res := r.watchState("Application", a, isOnline); !res.Watched {
			t.Error("it is not watched")
		}
		p := place{h: r.h, group: "web", resource: "app"}
		if log := p.logSince(0); log != "hello there" {
			t.Errorf("the start program printed %q", log)
		}
		r.reopen()
		r.watchState("Application", a, isOnline)
		if err := unix.Kill(readPid(pidFile), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.notice()
		r.watchState("Application", a, isOffline)
		if res := r.call(agent.Call{Type: "Application", Entry: agent.Clean, CleanReason: agent.UnexpectedOffline, Attributes: a}); res.Err != "" {
			t.Fatal(res.Err)
		}
		if b, err := os.ReadFile(reason); err != nil || string(b) != "the reason is 4\n" {
			t.Errorf("clean program: %q, %v", b, err)
		}
		if err := os.Remove(pidFile); err != nil {
			t.Fatal(err)
		}
		r.do("Application", agent.Online, a)
		r.watchState("Application", a, isOnline)
		r.do("Application", agent.Offline, a)
		r.watchState("Application", a, isOffline)
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
	})
}

func TestMonitorProgram(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		for status, want := range map[int]struct {
			state      v1.ResourceState
			confidence int
		}{
			0: {isOnline, 0}, 1: {isOffline, 0}, 100: {isOffline, 0}, 101: {isOnline, 10}, 110: {isOnline, 100},
			99: {v1.ResourceState_RESOURCE_STATE_UNKNOWN, 0}, 2: {v1.ResourceState_RESOURCE_STATE_UNKNOWN, 0}, 111: {v1.ResourceState_RESOURCE_STATE_UNKNOWN, 0},
		} {
			a := map[string]string{"StartProgram": "/bin/true", "MonitorProgram": script(t, fmt.Sprintf("echo because >&2; exit %d", status))}
			res := r.watchState("Application", a, want.state)
			if res.Confidence != want.confidence || res.Watched {
				t.Errorf("status %d: %+v", status, res)
			}
			if want.state != isOnline && !strings.Contains(res.Message, "because") {
				t.Errorf("status %d: message %q", status, res.Message)
			}
		}
	})
}

// A start program that fails leaves nothing running, and says why.
func TestStartProgramFails(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		a := map[string]string{"StartProgram": script(t, "sleep 1000 &", "echo the disk is missing >&2", "exit 7"), "MonitorProgram": "/bin/false"}
		res := r.call(agent.Call{Type: "Application", Entry: agent.Online, Attributes: a})
		if !strings.Contains(res.Err, "exited with status 7") || !strings.Contains(res.Err, "the disk is missing") {
			t.Errorf("%+v", res)
		}
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
	})
}

// A program whose time is over is killed with everything that it has started, wherever it has hidden.
func TestProgramHangs(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		hung := map[agent.EntryPoint]<-chan agent.Result{}
		attributes := map[agent.EntryPoint]string{
			agent.Online: "StartProgram", agent.Monitor: "MonitorProgram", agent.Offline: "StopProgram", agent.Clean: "CleanProgram",
		}
		pids := filepath.Join(t.TempDir(), "pids")
		for entry, attribute := range attributes {
			to := pids + attribute
			a := map[string]string{"StartProgram": "/bin/true", "MonitorProgram": "/bin/false"}
			a[attribute] = script(t, "trap '' TERM", "setsid sh -c 'echo $$ >>"+to+"; exec sleep 1000' &", "sleep 1000 &", "echo $! >>"+to, "wait")
			hung[entry] = r.begin(agent.Call{Type: "Application", Resource: attribute, Entry: entry, Attributes: a, Timeout: 2 * time.Second})
		}
		for entry, attribute := range attributes {
			// Clean kills after half of its time, and is in time then.
			if res := <-hung[entry]; res.TimedOut != (entry != agent.Clean) || res.Err == "" {
				t.Errorf("%s: %+v", attribute, res)
			}
			b, err := os.ReadFile(pids + attribute)
			if err != nil || strings.Count(string(b), "\n") != 2 {
				t.Fatalf("%s did not get so far: %q, %v", attribute, b, err)
			}
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err != nil || alive(pid) {
					t.Errorf("%s: process %s is still alive (%v)", attribute, f, err)
				}
			}
		}
	})
}

// A call that is cancelled ends at once, with its whole tree.
func TestCancel(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		a := map[string]string{"StartProgram": "/bin/sleep 1000", "MonitorProgram": "/bin/false"}
		hung := r.begin(agent.Call{Type: "Application", Entry: agent.Online, Attributes: a, Timeout: time.Hour})
		until(t, "it has begun", func() bool { return len(r.members()) > 0 })
		r.h.Cancel(r.token)
		if res := <-hung; res.Err != "cancelled" || res.TimedOut {
			t.Errorf("%+v", res)
		}
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
	})
}

// MonitorProcesses finds processes by their command lines, also the interpreter of a script.
func TestMonitorProcesses(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		worker := script(t, "while :; do sleep 1000; done")
		a := map[string]string{"StartProgram": script(t, worker+" one 'and more' &", worker+" two &"), "MonitorProcesses": worker + " one 'and more'; " + worker + " two"}
		r.watchState("Application", a, isOffline)
		r.do("Application", agent.Online, a)
		until(t, "both have begun", func() bool { return r.monitor("Application", a).State == isOnline })
		procs := r.h.watcher.watching(key{"web", "app"})
		if len(procs) != 2 {
			t.Fatalf("watched: %v", procs)
		}
		// What is watched may be a child that the shell has just forked and that has its
		// command line still: then the next monitor finds the shell.
		var res agent.Result
		until(t, "the loss is seen", func() bool {
			if procs := r.h.watcher.watching(key{"web", "app"}); len(procs) == 2 {
				_ = procs[1].signal(unix.SIGKILL)
				r.notice()
			}
			res = r.monitor("Application", a)
			return res.State == isOffline
		})
		if res.Message != "no process "+worker+" two" {
			t.Errorf("message %q", res.Message)
		}
		r.do("Application", agent.Offline, a)
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
	})
}

// A pid file that outlived its process names another one.
func TestStalePidFile(t *testing.T) {
	r := newRig(t, "sessions")
	pidFile := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(pidFile, []byte(fmt.Sprintln(os.Getpid())), 0o644); err != nil {
		t.Fatal(err)
	}
	a := map[string]string{"StartProgram": "/bin/true", "PidFiles": pidFile}
	r.watchState("Application", a, isOnline)
	long := time.Now().Add(-24 * 365 * time.Hour)
	if err := os.Chtimes(pidFile, long, long); err != nil {
		t.Fatal(err)
	}
	if res := r.watchState("Application", a, isOffline); !strings.Contains(res.Message, "younger") {
		t.Errorf("message %q", res.Message)
	}
	for _, content := range []string{"", "none\n", "1\n", "-5\n", strings.Repeat("9", 100)} {
		if err := os.WriteFile(pidFile, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		r.watchState("Application", a, isOffline)
	}
}

// Programs run as the user asked for, without the environment of this process.
func TestUserAndEnvironment(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		t.Setenv("SECRET", "token")
		out := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(out, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		for d := out; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		start := script(t, "(id -un; pwd; env; cat /proc/self/oom_score_adj) >"+out)
		for d := start; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		a := map[string]string{"StartProgram": start, "MonitorProgram": "/bin/false", "User": "nobody", "WorkDir": "/usr", "Environment": "A=b"}
		r.do("Application", agent.Online, a)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(b), "\n")
		if lines[0] != "nobody" || lines[1] != "/usr" {
			t.Errorf("ran as %s in %s", lines[0], lines[1])
		}
		env := "\n" + string(b)
		for _, want := range []string{"\nA=b\n", "\nHOLDFAST_NODE=n1\n", "\nHOLDFAST_GROUP=web\n", "\nHOLDFAST_RESOURCE=app\n", "\nUSER=nobody\n"} {
			if !strings.Contains(env, want) {
				t.Errorf("%q is not in the environment:\n%s", want, env)
			}
		}
		if strings.Contains(env, "SECRET") {
			t.Error("the environment of this process is inherited")
		}
	})
}
