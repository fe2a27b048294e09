//go:build linux

package clusterd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// told reads what a notifier's program has written, a "NUMBER CODE" a line.
func told(t *testing.T, path string) (numbers []int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var n int
		if _, err := fmt.Sscan(line, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if n > 0 {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// A notifier of three real nodes goes on through an orderly change of the leader
// without a gap and without telling anything twice, and through a crash without a gap.
func TestNotifierThroughChangesOfTheLeader(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2", "n3")}, "n1", "n2", "n3")
	for _, m := range ms {
		m.start()
	}
	s := ms["n1"].until("a healthy cluster", healthy(3, "web"))
	dir := t.TempDir()
	out, script := filepath.Join(dir, "told"), filepath.Join(dir, "tell")
	// Slow enough that one is always on its way.
	text := "#!/bin/sh\nread -r line\nsleep 0.05\necho \"$line\" | sed 's/.*\"number\": *\\([0-9]*\\).*/\\1/' >>" + out + "\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	doc := &v1.Cluster{Name: "test", Notifiers: []*v1.Notifier{{Name: "prog", Severity: v1.Severity_SEVERITY_INFORMATION, Way: &v1.Notifier_Program{Program: &v1.ProgramNotifier{Command: script}}}}}
	if _, err := v1.NewConfigServiceClient(ms["n1"].client(), "http://node").Apply(t.Context(), connect.NewRequest(&v1.ApplyRequest{Documents: &v1.Configuration{Cluster: doc}})); err != nil {
		t.Fatal(err)
	}
	// Events happen all the time, asked for at a node that stays.
	busy := func(at *machine, while func()) {
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			groups := v1.NewGroupServiceClient(at.client(), "http://node")
			often := time.NewTicker(300 * time.Millisecond) // four events each time; the program takes 15 a second
			defer often.Stop()
			for {
				select {
				case <-done:
					return
				case <-often.C:
					_, _ = groups.Freeze(t.Context(), connect.NewRequest(&v1.FreezeGroupRequest{Group: "web"}))
					_, _ = groups.Unfreeze(t.Context(), connect.NewRequest(&v1.UnfreezeGroupRequest{Group: "web"}))
				}
			}
		}()
		defer func() {
			close(done)
			<-ended
		}()
		while()
	}
	// all has been told, as the notifier itself says.
	all := func(at *machine) uint64 {
		t.Helper()
		var done uint64
		at.until("all to be told", func(*v1.StatusResponse) bool {
			l, err := v1.NewNotifierServiceClient(at.client(), "http://node").List(t.Context(), connect.NewRequest(&v1.ListNotifiersRequest{}))
			if err != nil || l.Msg.GetUnknown() != "" || l.Msg.GetNotifiers()[0].GetPending() > 0 {
				return false
			}
			done = l.Msg.GetNotifiers()[0].GetDone()
			return done > 0
		})
		return done
	}
	check := func(last uint64, twice bool) {
		t.Helper()
		times := map[int]int{}
		first, before := 0, 0
		for _, n := range told(t, out) {
			if first == 0 {
				first = n
			}
			times[n]++
			if n <= before && !twice {
				t.Errorf("#%d was told after #%d", n, before)
			}
			before = n
		}
		for n := first; n <= int(last); n++ {
			if times[n] == 0 || times[n] > 1 && !twice {
				t.Errorf("#%d was told %d times", n, times[n])
			}
		}
	}
	leader := byName(ms, s.GetSource().GetLeader())
	other := ms["n1"]
	if leader == other {
		other = ms["n2"]
	}
	busy(other, func() {
		for range time.Tick(20 * time.Millisecond) {
			if len(told(t, out)) > 10 {
				break
			}
		}
		if _, err := v1.NewNodeServiceClient(leader.client(), "http://node").Stop(t.Context(), connect.NewRequest(&v1.StopNodeRequest{Node: leader.name, Evacuate: true})); err != nil {
			t.Fatal(err)
		}
		leader.gone()
		leader.guard = nil
		other.until("the next leader", func(s *v1.StatusResponse) bool {
			return s.GetSource().GetLeader() != "" && s.GetSource().GetLeader() != leader.name
		})
	})
	check(all(other), false)
	// The stopped one comes back, and the leader crashes.
	leader.start()
	s = other.until("a healthy cluster", healthy(3, "web"))
	crash := byName(ms, s.GetSource().GetLeader())
	for _, m := range ms {
		if m != crash {
			other = m
		}
	}
	other.until("a healthy cluster", healthy(3, "web"))
	count := len(told(t, out))
	busy(other, func() {
		for range time.Tick(20 * time.Millisecond) {
			if len(told(t, out)) > count+10 {
				break
			}
		}
		_ = crash.guard.Process.Kill() // it would start another clusterd
		for _, pid := range crash.clusterd() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-crash.ended
		other.until("the next leader", func(s *v1.StatusResponse) bool {
			return s.GetSource().GetLeader() != "" && s.GetSource().GetLeader() != crash.name
		})
	})
	check(all(other), true)
	// Each node that was there has them all on its disk.
	kept, err := filepath.Glob(filepath.Join(other.state, "events", "*.events"))
	if err != nil || len(kept) == 0 {
		t.Errorf("%v, %v", kept, err)
	}
}
