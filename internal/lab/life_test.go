package lab

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTogether(t *testing.T) {
	for _, c := range []struct {
		lives []life
		pairs int
	}{
		{[]life{{"a", 1, 5}}, 0},
		{[]life{{"a", 10 * ms, 20 * ms}, {"b", 22 * ms, 30 * ms}}, 0},
		{[]life{{"a", 10 * ms, 20 * ms}, {"b", 20*ms + lifeBeat, 30 * ms}}, 1}, // it may have lived for a beat longer
		{[]life{{"a", 10 * ms, 20 * ms}, {"a", 15 * ms, 30 * ms}}, 0},
		{[]life{{"a", 10 * ms, 90 * ms}, {"b", 20 * ms, 30 * ms}, {"c", 40 * ms, 50 * ms}}, 2},
	} {
		if got := together(c.lives); len(got) != c.pairs {
			t.Errorf("%v: %v", c.lives, got)
		}
	}
}

// What a process has said outlives SIGKILL, to a few milliseconds.
func TestLifeIsRecorded(t *testing.T) {
	l := testLab(t, Options{Nodes: 1, Command: []string{"sleep", "1000"}})
	if err := exec.Command("mkdir", livesDir(l.Dir())).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := l.Command(context.Background(), l.rec.Binary, "lab", webCommand, "127.0.0.1:80", livesDir(l.Dir()))
	begin := monotonic()
	if err := l.StartOn("n1", cmd); err != nil {
		t.Fatal(err)
	}
	awaitGet(t, l, "n1", "127.0.0.1:80", "n1")
	killed := monotonic()
	_ = unix.Kill(cmd.Process.Pid, unix.SIGKILL)
	_ = cmd.Wait()
	lives, err := l.lives()
	if err != nil || len(lives) != 1 || lives[0].Node != "n1" || lives[0].Start < begin || lives[0].Last < killed-200*time.Millisecond || lives[0].Last > monotonic() {
		t.Errorf("%v %+v, begun %v, killed %v", err, lives, begin, killed)
	}
}
