package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Bounds after a fault within which the losing side's processes are gone, with
// the default peerinact of a second (docs/lease.md).
const (
	// Power is gone.
	goneAtOnce = 100 * time.Millisecond
	// It reaches nobody: lease and stop.
	goneByLease = 850 * time.Millisecond
	// It still reached the coordination points, until the other side suspected it there.
	goneBySuspicion = time.Second + 350*time.Millisecond + goneByLease
)

// newPointSite makes a lab with coordination points, whose service records its lives.
func newPointSite(t *testing.T, o Options) *site {
	t.Helper()
	o.Tune.Lives = true
	s := newSite(t, o)
	t.Cleanup(s.checkLives) // before the lab is removed
	return s
}

// checkLives fails the test for processes of the service that lived on two nodes at once.
func (s *site) checkLives() {
	lives, err := s.lives()
	if err != nil {
		s.t.Error(err)
	}
	for _, pair := range together(lives) {
		s.t.Errorf("the service ran on two nodes at once: %+v", pair)
	}
}

// whole waits until all machines run as a whole cluster again.
func (s *site) whole() string {
	s.t.Helper()
	_, err := s.AwaitSettled(s.ctx)
	s.must(err)
	s.must(s.AwaitPoints(s.ctx))
	return s.steady()
}

// takeover makes a fault, waits until one of the winners serves, and checks
// when the service of the losers ended, by its own word.
func (s *site) takeover(what string, losers []string, bound time.Duration, fault func() (time.Duration, error)) string {
	s.t.Helper()
	at, err := fault()
	s.must(err)
	o, err := s.prober.AwaitMove(s.ctx, at, losers, 300*time.Millisecond)
	s.must(err)
	lives, err := s.lives()
	s.must(err)
	var last life
	first := life{Start: -1}
	for _, l := range lives {
		switch {
		case slices.Contains(losers, l.Node):
			last = l
		case l.Start > at && first.Start < 0:
			first = l
		}
	}
	if first.Start < 0 || last.Last == 0 {
		s.t.Fatalf("%s: no end or no start is recorded: %+v", what, lives)
	}
	if last.Last >= first.Start {
		s.t.Errorf("%s: %s was alive %v after the fault, %s started after %v", what, last.Node, last.Last-at, first.Node, first.Start-at)
	}
	if gone := last.Last - at; gone > bound {
		s.t.Errorf("%s: the service on %s was gone %v after the fault only, not within %v", what, last.Node, gone, bound)
	}
	s.t.Logf("%s: gone from %s after %v, started on %s after %v, answers after %v", what, last.Node, last.Last-at, first.Node, first.Start-at, o.Recovery)
	return o.Node
}

// undisturbed watches for a while that the service goes on where it is.
func (s *site) undisturbed(what string, d time.Duration) {
	s.t.Helper()
	active := s.steady()
	s.prober.Take()
	at := monotonic()
	probes, err := s.prober.Await(s.ctx, at, func([]Probe) bool { return monotonic()-at > d })
	s.must(err)
	for _, p := range probes {
		if p.Node != active {
			s.t.Errorf("%s: %q answers, not %s, %v after that began", what, p.Node, active, p.Begin-at)
			return
		}
	}
}

// onFollower moves the service to the node that does not lead.
func (s *site) onFollower() (active, leader string) {
	s.t.Helper()
	for {
		active = s.steady()
		leader = s.status().GetSource().GetLeader()
		if active != leader {
			return active, leader
		}
		c, err := s.Client(leader)
		s.must(err)
		s.must(c.Switch(s.ctx, defaultGroup, s.others(leader)[0]))
	}
}

// losses goes through what one of two nodes can lose: power, everything, the other node.
func (s *site) losses() {
	s.t.Helper()
	active := s.whole()
	s.takeover("power", []string{active}, goneAtOnce, func() (time.Duration, error) { return s.Kill(active) })
	s.must(s.Start(active))

	active = s.whole()
	s.takeover("everything", []string{active}, goneByLease, func() (time.Duration, error) {
		at, err := s.Cut(active)
		for _, d := range s.rec.Plan.LockDisks {
			if _, e := s.CutDisk(d.Name, active); e != nil {
				return at, e
			}
		}
		return at, err
	})
	s.must(s.Heal(active))

	s.whole()
	active, leader := s.onFollower()
	s.takeover("the link between the nodes", []string{active}, goneBySuspicion, func() (time.Duration, error) {
		return s.Split([]string{active}, []string{leader}, false)
	})
	s.undisturbed("while the nodes are apart", time.Second)
	s.must(s.Heal(active))
	s.whole()
}

func TestTwoNodesAndArbiter(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 2, Arbiters: 1})
	s.losses()

	// Without the arbiter nothing stops while the nodes agree.
	epoch := s.status().Epoch
	_, err := s.Kill("a1")
	s.must(err)
	s.undisturbed("the arbiter was killed", 3*time.Second)
	st := s.status()
	if st.Epoch != epoch {
		t.Errorf("the view changed: epoch %d, then %d", epoch, st.Epoch)
	}
	if !strings.Contains(fmt.Sprint(st), "a1") {
		t.Errorf("the status does not tell of a1: %v", st)
	}
	// One node of two, and nobody to ask: it can't know, and stops.
	active := s.steady()
	other := s.others(active)[0]
	fault, err := s.Kill(other)
	s.must(err)
	gone := s.awaitGone(active, fault)
	t.Logf("stopped %v after the other node was lost too", gone-fault)
	s.saysWhy(active, "a1")
	// With the arbiter it can know.
	s.must(s.Start("a1"))
	if now := s.steady(); now != active {
		t.Errorf("after the arbiter's return %s serves, not %s", now, active)
	}
	s.must(s.Start(other))
	s.whole()
}

// saysWhy checks that status and explain of a node that had to stop name what is missing.
func (s *site) saysWhy(node, what string) {
	s.t.Helper()
	for _, c := range [][]string{{"status"}, {"explain", "group", defaultGroup}, {"quorum", "show"}} {
		cmd, err := s.Lab.cli(s.ctx, node, c...)
		s.must(err)
		out, _ := cmd.CombinedOutput() // no quorum has an exit status of its own
		if !strings.Contains(string(out), "quorum") || !strings.Contains(string(out), what) {
			s.t.Errorf("holdfast %s does not name quorum and %s:\n%s", strings.Join(c, " "), what, out)
		}
	}
}

func TestTwoNodesAndLockDisk(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 2, LockDisks: 1})
	s.losses()

	// Without the disk nothing stops while the nodes agree.
	_, err := s.CutDisk("d1", s.Nodes()...)
	s.must(err)
	s.undisturbed("the lock disk was lost", 3*time.Second)
	active := s.steady()
	other := s.others(active)[0]
	fault, err := s.Kill(other)
	s.must(err)
	s.awaitGone(active, fault)
	s.saysWhy(active, "d1")
	s.must(s.HealDisk("d1"))
	if now := s.steady(); now != active {
		t.Errorf("after the disk's return %s serves, not %s", now, active)
	}
	s.must(s.Start(other))
	s.whole()
}

// Two of three points suffice.
func TestTwoNodesAndThreePoints(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 2, Arbiters: 2, LockDisks: 1})
	active := s.whole()
	_, err := s.Kill("a2")
	s.must(err)
	now := s.takeover("power and one point", []string{active}, goneAtOnce, func() (time.Duration, error) { return s.Kill(active) })
	s.must(s.Start(active))
	s.must(s.Start("a2"))
	s.whole()
	_, err = s.CutDisk("d1", s.Nodes()...)
	s.must(err)
	s.takeover("the link and the lock disk", []string{now}, goneByLease, func() (time.Duration, error) { return s.Cut(now) })
	s.must(s.Heal(now))
	s.must(s.HealDisk("d1"))
	s.whole()
}

// Two sites of two nodes: the preferred one wins, wherever the service and the leader are.
func TestSplitWithPreferredSite(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 4, Arbiters: 1, Tune: Tuning{Sites: []string{"east", "east", "west", "west"}, PreferredSite: "west"}})
	east, west := []string{"n1", "n2"}, []string{"n3", "n4"}
	if active := s.whole(); !slices.Contains(east, active) {
		t.Fatalf("%s serves first", active)
	}
	split := func() (time.Duration, error) { return s.Split(east, west, false) }
	s.takeover("the link between the sites", east, goneBySuspicion, split)
	heal := func() {
		for _, n := range east {
			s.must(s.Heal(n))
		}
	}
	heal()
	s.whole()
	// Now the service is where it should stay.
	_, err := split()
	s.must(err)
	s.undisturbed("the sites are apart", 3*time.Second)
	heal()
	s.whole()
}
