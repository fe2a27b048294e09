package sim

import (
	"bytes"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var seedFlag = flag.Uint64("sim.seed", 0, "run this seed of TestSeed only, with its whole story under -v")

// TestSeed runs one seed: go test ./internal/sim -run TestSeed -v -sim.seed=N.
// Without a seed it runs those that have once found something (testdata/seeds.txt).
func TestSeed(t *testing.T) {
	if *seedFlag != 0 {
		var story bytes.Buffer
		r := Run(Swarm(*seedFlag), &story)
		t.Log("\n" + story.String())
		if r.Failure != nil {
			t.Error(r.Report())
		}
		return
	}
	raw, err := os.ReadFile("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		seed, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if r := Run(Swarm(seed), nil); r.Failure != nil {
			t.Error(r.Report())
		}
	}
}

// TestDeterminism: a seed is a story, the whole of it.
func TestDeterminism(t *testing.T) {
	for seed := range uint64(12) {
		a, b := Run(Swarm(seed), nil), Run(Swarm(seed), nil)
		if a.Hash != b.Hash || a.Virtual != b.Virtual {
			t.Errorf("seed %d told two stories, %016x until %v and %016x until %v", seed, a.Hash, a.Virtual, b.Hash, b.Virtual)
		}
	}
}

// TestLinesMakeSense: what Swarm draws is of the language.
func TestLinesMakeSense(t *testing.T) {
	verbs := map[string]bool{}
	for seed := range uint64(300) {
		o := Swarm(seed)
		for _, f := range o.Schedule {
			verb, _, _ := strings.Cut(f.Line, " ")
			verbs[verb] = true
		}
	}
	c := newCluster(Options{Seed: 1, Nodes: 9, Links: 2, Groups: 4, Peerinact: time.Second, DiskSync: time.Millisecond})
	c.runUntil(2 * time.Second)
	for verb := range verbs {
		if err := c.do(verb); err == nil {
			t.Errorf("a lone %q was taken", verb)
		} else if strings.Contains(err.Error(), "no verb") {
			t.Errorf("%q is not of the language", verb)
		}
	}
	if len(verbs) < 20 {
		t.Errorf("only %d verbs are drawn", len(verbs))
	}
}

// TestShrink: what is left of a schedule still fails in the same way.
func TestShrink(t *testing.T) {
	o := Swarm(3)
	o.Schedule = append(o.Schedule, Fault{o.Chaos - time.Second, "break"})
	r := Run(o, nil)
	if r.Failure == nil || r.Failure.Rule != "N6" {
		t.Fatalf("the fault that breaks the rules did not: %v", r.Failure)
	}
	r = Shrink(r, func(int) {})
	if len(r.Options.Schedule) != 1 || r.Options.Schedule[0].Line != "break" {
		t.Errorf("left over: %v", r.Options.Schedule)
	}
	if !strings.Contains(r.Report(), "make sim SEED=3") {
		t.Errorf("no way to see it again in:\n%s", r.Report())
	}
}
