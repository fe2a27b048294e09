package agents

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func writeProgram(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgram(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		run := func(ctx context.Context, timeout time.Duration, argv ...string) ProgramResult {
			return r.h.RunProgram(ctx, Program{Name: "7", Argv: argv, Input: []byte(`{"a":1}`), Env: []string{"HOLDFAST_GROUP=web"}, Timeout: timeout})
		}
		background := context.Background()
		got := run(background, time.Minute, writeProgram(t, `cat; echo " $HOLDFAST_GROUP $# $2"; exit 3`), "preonline", "two words")
		if got != (ProgramResult{3, `{"a":1} web 2 two words`}) {
			t.Fatalf("%+v", got)
		}
		if got = run(background, time.Minute, "/nowhere/preonline"); got != (ProgramResult{-1, "no program /nowhere/preonline"}) {
			t.Fatalf("%+v", got)
		}
		if got = run(background, time.Minute, writeProgram(t, `kill -9 $$`)); got.Status != -1 || got.Message != "it was killed by signal 9" {
			t.Fatalf("%+v", got)
		}
		if got = run(background, time.Minute, writeProgram(t, `head -c 100000 /dev/zero | tr '\0' x; echo end`)); len(got.Message) > tailSize || !strings.HasSuffix(got.Message, "xend") {
			t.Fatalf("%d bytes", len(got.Message))
		}

		// What it leaves behind is killed, also when it takes too long or is not wanted any more.
		pid := filepath.Join(t.TempDir(), "pid")
		gone := func(how string) {
			t.Helper()
			p := process{Pid: pidIn(t, pid)}
			if st, err := readStat(p.Pid); err == nil && !st.zombie {
				t.Fatalf("%s: process %d goes on", how, p.Pid)
			}
		}
		child := `setsid sleep 1000 >/dev/null 2>&1 & echo $! >` + pid + `.new; mv ` + pid + `.new ` + pid + "\n"
		if got = run(background, time.Minute, writeProgram(t, child+`echo done`)); got != (ProgramResult{0, "done"}) {
			t.Fatalf("%+v", got)
		}
		gone("it has ended")
		if got = run(background, 300*time.Millisecond, writeProgram(t, child+`echo begun; wait`)); got != (ProgramResult{-1, "it took longer than 300ms and was killed: begun"}) {
			t.Fatalf("%+v", got)
		}
		gone("it was too slow")
		if err := os.Remove(pid); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(background)
		ended := make(chan ProgramResult)
		go func() { ended <- run(ctx, time.Minute, writeProgram(t, child+`wait`)) }()
		pidIn(t, pid)
		cancel()
		if got = <-ended; got != (ProgramResult{-1, "it was ended early"}) {
			t.Fatalf("%+v", got)
		}
		gone("it was not wanted any more")

		if left := must(filepath.Glob(filepath.Join(r.h.runDir, "agents", "*"))); len(left) > 0 {
			t.Fatalf("left behind: %v", left)
		}
		if left := must(filepath.Glob(filepath.Join(r.h.groupDir(programGroup), "*.call"))); r.h.cgroup != "" && len(left) > 0 {
			t.Fatalf("left behind: %v", left)
		}
		r.h.Close()
		if got = run(background, time.Minute, "/bin/true"); got.Status != -1 {
			t.Fatalf("%+v", got)
		}
	})
}

// pidIn waits for a file with a process number.
func pidIn(t *testing.T, file string) (pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if n, err := os.ReadFile(file); err == nil {
			for _, c := range strings.TrimSpace(string(n)) {
				pid = pid*10 + int(c-'0')
			}
			return pid
		}
	}
	t.Fatalf("%s never comes", file)
	return 0
}
